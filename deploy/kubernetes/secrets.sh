#!/bin/sh
# Prints the Secrets that `everything` refers to, with values that ../secrets.sh generates once in secrets/ here, or in
# the directory of the first argument:
#   sh deploy/kubernetes/secrets.sh | kubectl apply --filename -
set -eu
cd "$(dirname "$0")"
place=${1:-$PWD/secrets}
NATS_SERVERS="nats-0.nats nats-1.nats nats-2.nats" sh ../secrets.sh "$place"
cd "$place"

secret() { # secret NAME KEY=FILE…
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: { name: %s, namespace: rejoin }\ndata:\n' "$1"
  shift
  for pair; do printf '  %s: %s\n' "${pair%%=*}" "$(base64 <"${pair#*=}" | tr -d '\n')"; done
}

secret rejoin-gateway nats_url=gateway_nats_url database_url=gateway_database_url \
  api_key_pepper=api_key_pepper context_encryption_keys=context_encryption_keys
secret rejoin-runner nats_url=runner_nats_url database_url=runner_database_url \
  context_encryption_keys=context_encryption_keys
secret rejoin-owner nats_url=admin_nats_url database_url=owner_database_url
secret nats nats_passwords=nats_passwords
secret postgres postgres_password=postgres_password owner_password=owner_password \
  gateway_password=gateway_password runner_password=runner_password
