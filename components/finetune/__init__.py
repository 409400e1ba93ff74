"""The finetune step: retrieval, similarity and classes together, with mined hard negatives."""
