#!/bin/sh
# Produce, kill the leader's pod, go on producing, read everything back, on a real cluster:
#   kubectl apply -k deploy/k8s/overlays/three-node && deploy/k8s/smoke.sh [NAMESPACE [STATEFULSET]]
# Needs kubectl and three brokers. Exit code 0: nothing acknowledged was lost.
set -eu
namespace=${1:-logcluster}
name=${2:-logcluster}
topic=smoke-$(date +%s)
count=${SMOKE_RECORDS:-2000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

say() { echo "smoke: $*" >&2; }
kube() { kubectl --namespace "$namespace" "$@"; }
# Runs the command line in the pod of that ordinal; the client begins with that broker and finds the others.
node() {
  ordinal=$1
  shift
  kube exec -i "$name-$ordinal" -c logcluster -- logcluster "$@"
}

say "waiting for the pods of $name in namespace $namespace"
kube rollout status "statefulset/$name" --timeout 10m
node 0 cluster wait --brokers 3 --timeout 120s >&2
node 0 topic create "$topic" -p 3 -r 3 >&2

leader=$(node 0 partition ls "$topic" -o json | sed -n 's/.*"leader": *\([0-9][0-9]*\).*/\1/p' | sed -n 1p)
asked=0
[ "$leader" -ne 0 ] || asked=1
say "broker $leader leads partition 0; its pod will be killed while pod $name-$asked produces $count records"

i=0
while [ "$i" -lt "$count" ]; do
  echo "record-$i"
  i=$((i + 1))
done > "$work/sent"
half=$((count / 2))
(
  sed -n "1,${half}p" "$work/sent"
  sleep 2
  sed -n "$((half + 1)),\$p" "$work/sent"
) | node "$asked" produce "$topic" --acks all -o json > "$work/produced" &
producer=$!
sleep 1
kube delete pod "$name-$leader" --grace-period=0 --force >&2
wait "$producer" || { say "FAILED: not every record was acknowledged"; cat "$work/produced" >&2; exit 1; }

node "$asked" consume "$topic" --from beginning --until end > "$work/read"
sort "$work/sent" > "$work/sent.sorted"
sort "$work/read" > "$work/read.sorted"
if ! cmp -s "$work/sent.sorted" "$work/read.sorted"; then
  say "FAILED: sent $count, read $(wc -l < "$work/read"); differences:"
  diff "$work/sent.sorted" "$work/read.sorted" | head -20 >&2
  exit 1
fi
say "waiting until pod $name-$leader is back and in sync"
kube rollout status "statefulset/$name" --timeout 10m
node "$asked" cluster wait --brokers 3 --timeout 120s >&2
node "$asked" topic delete "$topic" --yes >&2
say "ok: $count records sent and read back, none lost or doubled, with broker $leader killed in between"
