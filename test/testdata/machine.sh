#!/bin/bash
# machine.sh SOURCE COMMANDS: run COMMANDS as the administrator of a machine of
# one's own: a mount and a network namespace in which /etc and the directories
# that the README's commands write to are copies that vanish. The host's /usr
# stays as it is but for the places that `make install` writes to, so PREFIX
# is /usr/local here. COMMANDS run in SOURCE.
set -euo pipefail
source=$1 commands=$2

if [[ ${3-} != inside ]]; then
	exec unshare --mount --net --propagation private "$0" "$source" "$commands" inside
fi

scratch=$(mktemp -d /var/tmp/carrel-readme-XXXXXX)
mount -t tmpfs -o mode=755 scratch "$scratch"
mkdir "$scratch"/{upper,work,state}
mount -t overlay -o "lowerdir=/etc,upperdir=$scratch/upper,workdir=$scratch/work" overlay /etc
for dir in /run /home /usr/local/bin /usr/local/sbin; do
	mount -t tmpfs -o mode=755 machine $dir
done
for dir in /usr/local/libexec /usr/local/share /var/lib/carrel; do
	[[ -d $dir ]] || { mkdir -p $dir && made+=("$dir"); }
	mount -t tmpfs -o mode=755 machine $dir
done
ip link set lo up 2>/dev/null || true

cleanup() {
	status=$?
	carrel stop --all || true
	for pid in $(jobs -p) $(cat /run/sshd.pid 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
	wait || true
	[[ -z ${made-} ]] || { umount "${made[@]}" && rmdir "${made[@]}"; } || true
	umount -l "$scratch" && rmdir "$scratch"
	find /sys/fs/cgroup -maxdepth 2 -type d -name carrel -exec rmdir {} + 2>/dev/null || true
	exit $status
}
trap cleanup EXIT

# What a machine that people log in to has already: an sshd, and a key.
mkdir -p /run/sshd /etc/carrel
keys=$scratch/keys
mkdir "$keys"
ssh-keygen -q -t ed25519 -N '' -f "$keys/client"
ssh-keygen -q -t ed25519 -N '' -f "$keys/host"
cat >/etc/ssh/sshd_config <<-END
	HostKey $keys/host
	AuthorizedKeysFile $keys/client.pub
	StrictModes no
	UsePAM yes
	PrintMotd no
	ListenAddress 127.0.0.1
	PidFile /run/sshd.pid
	Subsystem sftp /usr/lib/openssh/sftp-server
END
cat >/etc/ssh/ssh_config <<-END
	Host *
	IdentityFile $keys/client
	IdentitiesOnly yes
	BatchMode yes
	LogLevel ERROR
	StrictHostKeyChecking no
	UserKnownHostsFile /dev/null
END
/usr/sbin/sshd

cd "$source"
export PATH=/usr/local/bin:/usr/local/sbin:$PATH
set -x
eval "$commands"
