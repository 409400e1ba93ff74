"""Boilerplate of web pages: what share of a text is notices, navigation and buttons instead of content.

A phrase counts wherever it stands, with the notice it opens; a label counts only where it is a whole line, or a whole
field between separators, because the same words are content elsewhere ("how do I read more books").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# To the end of the clause, but no further than a notice goes.
_REST = r"[^\n。.!?！？|]{0,80}[。.!?！？]?"
_NAME = r"[^\s。，,|]{0,12}"
_PHRASES = (
    rf"(?:we|(?:this|our) (?:web)?site|by (?:continuing|using|clicking|browsing))\b[^\n.]{{0,80}}\bcookies\b{_REST}",
    r"\baccept (?:all )?cookies|\bcookies? (?:policy|settings|preferences|notice)",
    rf"(?:copyright|©|\(c\))\s*(?:copyright|©|\(c\))?\s*(?:19|20)\d\d{_REST}",
    r"\ball rights reserved\.?",
    rf"\b(?:may|must) not be (?:reproduced|republished|redistributed|published, broadcast){_REST}",
    rf"\b(?:follow|like|find) us on\b{_REST}",
    rf"\bshare (?:this (?:article|page|post|story)|(?:on|via) (?:facebook|twitter)){_REST}",
    rf"\b(?:subscribe to|sign up for) (?:our|the) (?:[\w-]+ ){{0,3}}newsletters?{_REST}",
    rf"\bclick here to\b{_REST}",
    rf"\b(?:please )?(?:enable|turn on) javascript{_REST}",
    rf"\bjavascript (?:is|must be) (?:disabled|enabled|required){_REST}",
    rf"\bby (?:signing|logging) (?:up|in)[^\n.]{{0,40}}agree to\b{_REST}",
    r"版权(?:所有|归)[^\n。|]{0,40}|侵权必究|保留(?:所有|一切)权利",
    rf"未经[^\n。]{{0,15}}(?:不得|禁止|严禁)[^\n。]{{0,6}}(?:转载|复制|摘编|镜像|传播|翻印|使用){_NAME}",
    rf"(?:禁止|严禁|谢绝)转载|转载(?:请|须|时请?)?(?:注明|标明|联系){_NAME}|如需转载{_REST}",
    rf"(?:责任编辑|责编|原标题|(?:文章|本文|稿件)来源)\s*[:：]\s*{_NAME}",
    rf"(?:(?:发布|发表)时间|(?:浏览|阅读|点击)次数)\s*[:：]\s*{_NAME}",
    r"(?:^|(?<=\s))[上下]一[篇页条章]\s*[:：][^\n|]{0,40}",
    rf"(?:分享|转发)(?:到|至)\s*[：:]{_NAME}",
    rf"扫(?:描|一扫)[上下左右文本][^\n。]{{0,10}}二维码{_NAME}",
    rf"(?:关注|添加)(?:我们|本[站报网])?[^\n。的]{{0,8}}(?:公众号|微信号){_NAME}",
    rf"点击(?:查看|阅读|进入|展开)(?:更多|原文|全文|详情|下一页){_NAME}|阅读(?:全文|原文)|(?:查看|更多)评论",
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼]?(?:ICP[备证]|公网安备)[\s\w-]{0,20}",
    rf"(?:本站|本网站|本网)[^\n。]{{0,30}}(?:无关|不承担|免责|删除|仅供参考|不代表){_REST}",
    r"(?:违法|不良)信息举报[^\n。|]{0,30}",
)
_ENTRIES = "articles?|posts?|pages?|stor(?:y|ies)|comments?|entries"
_LABELS = (
    r"(?:read|learn|view|show|see|load) (?:more|all|less)|continue reading|more(?: (?:news|stories|info(?:rmation)?))?",
    r"(?:terms|conditions)(?: (?:of (?:use|service)|(?:and|&) conditions))?|privacy(?: (?:policy|statement|notice))?",
    r"(?:contact|about)(?: us)?|site ?map|home(?: ?page)?|faqs?|help|careers|press|advertise(?: with us)?|sponsored",
    r"(?:log|sign) ?(?:in|out|up)|register|my account|subscribe(?: now)?|newsletter|advertisement|disclaimer|rss",
    rf"(?:previous|next|older|newer|related|recent|popular)(?: (?:{_ENTRIES}))?",
    r"(?:leave|post|add|write) (?:a |your )?(?:comment|reply)|(?:no |\d+ )?comments?|reply|report|permalink|trackback",
    r"(?:e-?mail|print|save|bookmark|share|tweet|pin it|like|follow)(?: (?:this|us|page|article))*",
    r"facebook|twitter|instagram|linkedin|pinterest|whatsapp|youtube|reddit|tumblr|google\+",
    r"skip to (?:main |the )?(?:content|navigation)|(?:main |toggle )?(?:menu|navigation|search)|back to (?:the )?top",
    r"(?:posted|published|updated|filed|tagged)(?: (?:by|on|in|under|with))?:? ?.{0,40}|powered by .{0,40}",
    r"首页|返回(?:首页|顶部|列表|上一页)|网站(?:首页|地图|导航)|加入收藏|设为首页|收藏本[站页]|打印(?:本页)?",
    r"联系我们|关于我们|广告服务|招聘信息|诚聘英才|友情链接|(?:法律|免责|版权|隐私)声明|隐私(?:政策|保护)|用户协议",
    r"登录|注册|登录/注册|退出|搜索|举报|收藏|点赞|评论(?:\(?\d*\)?)?|我要评论|网友评论|发表评论|分享|意见反馈",
    r"更多>*|查看更多|展开全文|[上下]一[篇页条章]|关闭(?:窗口|本页)?|热点(?:推荐|新闻)|猜你喜欢|广告|赞助商链接",
    r"(?:相关|热门|推荐|精彩|延伸)(?:阅读|推荐|新闻|文章|链接|内容|专题)?",
    r"(?:微信|微博|新浪微博|腾讯微博|QQ空间|朋友圈|人人网|豆瓣)+|分享至.{0,40}",
    r"(?:当前|您的|你的)(?:所在)?位置.{0,40}|字号.{0,40}|[大中小]|客服(?:热线|电话).{0,40}",
    r"(?:编辑|作者|来源|记者|日期|时间|标签|关键词|栏目)\s*[:：].{0,40}",
)
_PHRASE = re.compile("|".join(_PHRASES), re.IGNORECASE)
_LABEL = re.compile("|".join(_LABELS), re.IGNORECASE)
_LABEL_CHARACTERS = 60
_SEPARATORS = "\n|｜»›·•"
_FIELD = re.compile(f"[^{_SEPARATORS}]+")
# RE2 finds the texts that may hold any of it, so that the others never become Python strings
_PHRASE_HINT = (
    r"(?i)\bcookies?\b|copyright|©|\(c\) ?(?:19|20)|all rights res|not be re|not be pub|us on\b|share (?:this|on|via)"
    r"|newsletters?\b|click here|javascript|agree to|版权|侵权必|切权利|有权利|未经|转载|责任?编|原标题|来源"
    "|发[布表]时间|次数|[上下]一[篇页条章]|[享发][到至] *[:：]|二维码|公众号|微信号|点击[查阅进展]|阅读[全原]文"
    "|[看多]评论|ICP[备证]|公网安备|本[站网]|信息举报"
)
_LABEL_HINT = f"(?i)(?:^|[{_SEPARATORS}]) ?(?:{'|'.join(_LABELS)}) ?(?:$|[{_SEPARATORS}])".replace(".{0,40}", "[^\n]*")


def boilerplate_shares(texts: Sequence[str]) -> NDArray[np.float64]:
    """Share of the characters of each cleaned text that are boilerplate, float64 [N]; separators count as neither."""
    array = pa.array(texts, pa.string())
    phrases, labels = (pc.match_substring_regex(array, hint).to_numpy(False) for hint in (_PHRASE_HINT, _LABEL_HINT))
    shares = np.zeros(len(texts))
    for index in np.flatnonzero(phrases | labels).tolist():
        shares[index] = _share(texts[index], phrases[index])
    return shares


def _share(text: str, phrases: bool) -> float:
    found = total = 0
    for field in map(str.strip, _FIELD.findall(text)):
        total += len(field)
        if len(field) <= _LABEL_CHARACTERS and _LABEL.fullmatch(field):
            found += len(field)
        elif phrases:
            found += sum(match.end() - match.start() for match in _PHRASE.finditer(field))
    return found / max(total, 1)
