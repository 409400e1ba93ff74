# What the entry point of the image `postgres` does: a database of the given name, user and password, made once.
set -eu
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --auth=scram-sha-256 --username="$POSTGRES_USER" --pwfile=/tmp/password >/dev/null
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  pg_ctl --wait --options="-c listen_addresses=" start >/dev/null
  PGPASSWORD=$POSTGRES_PASSWORD createdb --host=/run/postgresql --username="$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl --wait stop >/dev/null
fi
exec postgres -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
