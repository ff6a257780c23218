#!/bin/bash
# PID 1 of a machine without systemd: brings up what Carrel needs, installs it,
# logs in, and reports each check as a line "ok NAME" or "not ok NAME". The last
# line is "end".
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mountpoint -q /proc || mount -t proc proc /proc
mountpoint -q /sys || mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mount -o remount,rw /
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
# As systemd has it: one hierarchy, delegated by namespace, PID 1 not at its root.
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/init.scope && echo 1 > /sys/fs/cgroup/init.scope/cgroup.procs
echo '+memory +cpu +pids' > /sys/fs/cgroup/cgroup.subtree_control
modprobe overlay
hostname guest
ip link set lo up

check() { # NAME WANT GOT
	if [[ $3 == $2 ]]; then echo "ok $1"; else echo "not ok $1: got '$3', want '$2'"; fi
}

dpkg -i /seed/carrel.deb >/run/dpkg.log 2>&1
installed="$(dpkg-query -W -f '${db:Status-Abbrev}' carrel):$(pgrep -c carreld)"
useradd -m -s /usr/bin/carrelsh alice
useradd -m -s /usr/bin/carrelsh bob
groupadd -g 70000 large && usermod -aG large alice
cgroup=/sys/fs/cgroup/carrel/u$(id -u alice)
carreld >/run/carreld.log 2>&1 &
daemon=$!
for _ in {1..100}; do [[ -S /run/carrel/login.sock ]] && break; sleep 0.1; done

in_alice() { su alice -c "$1" </dev/null 2>/run/stderr; }

echo
wanted=$(sed -n 's/.*kernel=//p' /proc/cmdline)
check kernel-is-the-distribution\'s "$wanted" "$(uname -r)"
check package-where-nothing-runs 'ii :0' "$installed"
check identity 'uid=*alice*70000*large*' "$(in_alice id)"
check status 42 "$(in_alice 'exit 42'; echo $?)"
check signal 143 "$(in_alice 'kill -TERM $$' >/dev/null; echo $?)"
check login-shell '-bash /home/bob' "$(su - bob -c 'echo $0 $PWD' </dev/null 2>/run/stderr)"
check hostname 'alice-guest' "$(in_alice hostname)"
check alone 0 "$(in_alice 'ps -eo comm= | grep -c carreld')"
check born-in-its-leaf '0::/s*' "$(in_alice 'cat /proc/self/cgroup')"
check filter 'Seccomp: 2' "$(in_alice 'grep Seccomp: /proc/self/status' | tr '\t' ' ')"
check no-rights 'CapBnd: 0000000000000000' "$(in_alice 'grep CapBnd /proc/self/status' | tr '\t' ' ')"
check no-nested-namespace 1 "$(in_alice 'unshare -U true'; echo $?)"
check cgroupfs-is-read-only 1 "$(in_alice 'echo $$ > /sys/fs/cgroup/cgroup.procs 2>/dev/null'; echo $?)"
check init-is-not-readable 1 "$(in_alice 'cat /proc/1/environ >/dev/null 2>&1'; echo $?)"
check terminal '*/dev/pts/0' "$(script -qec "su alice -c tty" /dev/null </dev/null | tr -d '\r')"
check memory-limit 2147483648 "$(<$cgroup/memory.max)"
check swap-limit 0 "$(<$cgroup/memory.swap.max)"
check weight 100 "$(<$cgroup/cpu.weight)"
check process-limit 512 "$(<$cgroup/pids.max)"
check fork-bomb-is-bounded '*' "$(timeout 60 su alice -c 'for i in {1..600}; do sleep 5 & done; wait' </dev/null >/dev/null 2>&1)"
check login-after-it back "$(for _ in {1..20}; do in_alice 'echo back' && break; sleep 1; done)"
check a-job-survives-logout 1 "$(in_alice 'setsid sleep 300 >/dev/null 2>&1 &'; in_alice 'pgrep -c -x sleep')"
kill -9 $daemon; wait $daemon 2>/dev/null
carreld >>/run/carreld.log 2>&1 &
daemon=$!
sleep 2
check adopted-after-kill 1 "$(in_alice 'pgrep -c -x sleep')"
check host-mounts 0 "$(grep -c carrel /proc/self/mountinfo)"
carrel stop --all >/dev/null; sleep 1
check stopped 0 "$(ls /run/carrel/c | wc -l)"
check nothing-left 0 "$(find /sys/fs/cgroup/carrel -mindepth 1 -type d | wc -l)"
passwd -d alice >/dev/null
mkdir -p /run/sshd /home/alice/.ssh && ssh-keygen -q -A && ssh-keygen -q -t ed25519 -N '' -f /run/key
cp /run/key.pub /home/alice/.ssh/authorized_keys && chown -R alice: /home/alice/.ssh && chmod 700 /home/alice/.ssh
/usr/sbin/sshd -o UsePAM=no -o LogLevel=ERROR
check through-sshd '/home/alice 127.0.0.1 *' "$(ssh -i /run/key -o StrictHostKeyChecking=no -o LogLevel=ERROR alice@127.0.0.1 'echo $HOME $SSH_CLIENT' </dev/null)"
sed 's/^/# /' /run/carreld.log
echo end
sync
echo o > /proc/sysrq-trigger
sleep 60
