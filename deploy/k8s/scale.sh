#!/bin/sh
# More brokers: deploy/k8s/scale.sh COUNT [NAMESPACE [STATEFULSET]]. Fewer is refused. Put the count into your overlay, too,
# or the next apply takes it back (and is refused, where deploy/k8s/refuse-shrinking is used).
set -eu
count=${1:?usage: $0 COUNT [NAMESPACE [STATEFULSET]]}
namespace=${2:-logcluster}
name=${3:-logcluster}
now=$(kubectl --namespace "$namespace" get statefulset "$name" -o 'jsonpath={.spec.replicas}')
case $count in '' | *[!0-9]*) echo "scale: $count is not a number" >&2; exit 2 ;; esac
if [ "$name" = logcluster-controller ]; then
  echo "scale: voters are named in the configuration of every node; their number cannot be changed in this version" >&2
  exit 1
fi
if [ "$count" -lt "$now" ]; then
  last=$((now - 1))
  echo "scale: refused, $now brokers cannot become $count: broker $last and others hold replicas, and there is no command yet" >&2
  echo "       that moves them to the brokers that stay. Nothing was changed." >&2
  exit 1
fi
if [ "$count" -eq "$now" ]; then
  echo "scale: there are $now brokers already"
  exit 0
fi
kubectl --namespace "$namespace" scale statefulset "$name" --replicas "$count"
kubectl --namespace "$namespace" rollout status statefulset "$name" --timeout 15m
kubectl --namespace "$namespace" exec "$name-0" -c logcluster -- \
  logcluster cluster wait --brokers "$count" --timeout 5m
echo "scale: $count brokers. New topics use all of them; partitions that exist stay where they are."
