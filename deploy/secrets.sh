#!/bin/sh
# Makes the secrets of compose.yaml in deploy/secrets (or the directory that is named), each once: a file that
# is there stays. The directory is the owner's alone; its files are readable, because the containers' users
# are others, and each sees only those that compose.yaml gives it.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p "${1:-secrets}"
cd "${1:-secrets}"

word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -e "$1" ] || { cat >"$1.new" && chmod 0444 "$1.new" && mv "$1.new" "$1"; }; }
brokers() { echo "nats://$1@nats-1:4222,nats://$1@nats-2:4222,nats://$1@nats-3:4222"; }

if [ ! -e nats_passwords ]; then
  admin=$(word) gateway=$(word) runner=$(word) route=$(word)
  rm -f admin_nats_url gateway_nats_url runner_nats_url
  brokers "admin:$admin" | keep admin_nats_url
  echo "$(brokers "gateway:$gateway")/?api=JS.REJOIN" | keep gateway_nats_url
  brokers "runner:$runner" | keep runner_nats_url
  keep nats_passwords <<EOF
admin_password: "$admin"
gateway_password: "$gateway"
runner_password: "$runner"
route_password: "$route"
routes: [
  "nats-route://route:$route@nats-1:6222"
  "nats-route://route:$route@nats-2:6222"
  "nats-route://route:$route@nats-3:6222"
]
EOF
fi
word | keep postgres_password
word | keep owner_password
word | keep service_password
echo "postgresql://rejoin_owner:$(cat owner_password)@postgres:5432/rejoin" | keep owner_database_url
echo "postgresql://rejoin_service:$(cat service_password)@postgres:5432/rejoin" | keep service_database_url
word | keep api_key_pepper
echo "first:$(head -c 32 /dev/urandom | base64 | tr -d '\n')" | keep context_encryption_keys
