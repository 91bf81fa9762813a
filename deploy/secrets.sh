#!/bin/sh
# Generates the secrets of compose.yaml in deploy/secrets, or in the directory of the first argument. NATS_SERVERS: the
# hosts of the NATS servers, unless they are compose.yaml's. An existing
# file is kept. Only the owner can enter the directory. The files are readable for all, because the containers run
# as other users; each container gets only the files that compose.yaml lists for it.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p "${1:-secrets}"
cd "${1:-secrets}"

random_word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write_once() { [ -e "$1" ] || { cat >"$1.new" && chmod 0444 "$1.new" && mv "$1.new" "$1"; }; }
servers=${NATS_SERVERS:-nats-1 nats-2 nats-3}
nats_urls() { printf "nats://$1@%s:4222\n" $servers | paste -s -d , -; }

if [ ! -e nats_passwords ]; then
  admin=$(random_word) gateway=$(random_word) runner=$(random_word) route=$(random_word)
  rm -f admin_nats_url gateway_nats_url runner_nats_url
  nats_urls "admin:$admin" | write_once admin_nats_url
  echo "$(nats_urls "gateway:$gateway")/?api=JS.REJOIN" | write_once gateway_nats_url
  echo "$(nats_urls "runner:$runner")/?api=JS.REJOIN" | write_once runner_nats_url
  write_once nats_passwords <<EOF
admin_password: "$admin"
gateway_password: "$gateway"
runner_password: "$runner"
route_password: "$route"
routes: [
$(printf "  \"nats-route://route:$route@%s:6222\"\n" $servers)
]
EOF
fi
random_word | write_once postgres_password
random_word | write_once owner_password
random_word | write_once gateway_password
random_word | write_once runner_password
echo "postgresql://rejoin_owner:$(cat owner_password)@postgres:5432/rejoin" | write_once owner_database_url
for role in gateway runner; do
  echo "postgresql://rejoin_$role:$(cat "${role}_password")@postgres:5432/rejoin" | write_once "${role}_database_url"
done
random_word | write_once api_key_pepper
echo "first:$(head -c 32 /dev/urandom | base64 | tr -d '\n')" | write_once context_encryption_keys
