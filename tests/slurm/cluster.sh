#!/usr/bin/env bash
# A Slurm cluster of one node in a folder of its own, without systemd: munged, slurmctld, slurmd.
#
#   cluster.sh start DIR      writes DIR/slurm.conf and starts the daemons
#   cluster.sh stop DIR       ends them
set -euo pipefail
action=$1 dir=$(realpath "$2") host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

case $action in
start)
    mkdir -p "$dir"/{state,spool,log,munge}
    # munged insists on directories that nobody else can write to; the default socket is the one that Slurm opens.
    install -d -m 0755 -o "$(id -u)" /run/munge
    head -c 1024 /dev/urandom >"$dir/munge/key"
    chmod 0600 "$dir/munge/key"
    chmod 0700 "$dir/munge"
    munged --force --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" --log-file="$dir/munge/log" \
        --seed-file="$dir/munge/seed" --socket=/run/munge/munge.socket.2
    free='import socket; s = [socket.socket() for _ in range(2)]; [x.bind(("127.0.0.1", 0)) for x in s]
print(*(x.getsockname()[1] for x in s))'
    read -r controller node < <(python3 -c "$free")
    cat >"$SLURM_CONF" <<CONF
ClusterName=layergraft
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$controller
SlurmdPort=$node
AuthType=auth/munge
# A requeued job may start again after this many seconds, not after two minutes.
AuthInfo=cred_expire=3
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
ReturnToService=2
JobRequeue=1
KillWait=30
SchedulerParameters=sched_interval=2,bf_interval=2
# Two tasks fit, whatever the machine has.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    slurmctld
    slurmd
    for _ in $(seq 480); do
        sinfo --noheader --format=%T 2>/dev/null | grep -q idle && exit 0
        sleep 0.5
    done
    tail -n 20 "$dir"/log/* >&2
    exit 1
    ;;
stop)
    timeout 10 scancel --user="$(id -un)" || true
    for _ in $(seq 40); do
        [ -z "$(timeout 10 squeue --noheader)" ] && break
        sleep 0.5
    done
    for pid in slurmd.pid slurmctld.pid munge/pid; do
        [ -f "$dir/$pid" ] && kill "$(cat "$dir/$pid")" 2>/dev/null || true
    done
    ;;
esac
