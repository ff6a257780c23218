package attack

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestCalls makes the system calls that nobody inside has a use for, as the
// user and, without the filter, as root of the container. The twin is root of
// the host, whom none is refused: an argument was not just wrong.
func TestCalls(t *testing.T) {
	f := setup(t)
	f.attack(t, f.alice, "calls").wantDenied(t, "the user")
	twin := f.onHost(t, nil, "calls")
	for what, got := range twin {
		if got == "EPERM" || got == "EACCES" {
			t.Errorf("%s: %s to root of the host; the test proves nothing", what, got)
		}
	}
}

// TestNestedNamespaces makes a further user namespace, and tries to raise the
// limit that forbids it.
func TestNestedNamespaces(t *testing.T) {
	f := setup(t)
	before := read(t, "/proc/sys/user/max_user_namespaces")
	for _, try := range []string{
		"unshare -U true",
		"unshare -Ur true",
		"echo 100 >/proc/sys/user/max_user_namespaces && unshare -U true",
		"umount /proc/sys && echo 100 >/proc/sys/user/max_user_namespaces && unshare -U true",
		"mount -o remount,rw,bind /proc/sys && echo 100 >/proc/sys/user/max_user_namespaces && unshare -U true",
	} {
		if r := f.In(f.alice, try, nil); r.Code == 0 || r.Err != nil {
			t.Errorf("%q: %v; want it refused", try, r)
		}
	}
	// Without the filter, the limit of the container's own namespace refuses.
	if r := host.Run(f.enter(t, f.alice, "/usr/bin/unshare", "-U", "true")); r.Code == 0 || r.Err != nil {
		t.Errorf("root of the container, without a filter: %v; want it refused", r)
	}
	if got := read(t, "/proc/sys/user/max_user_namespaces"); got != before {
		t.Errorf("max_user_namespaces of the host was %s and is %s", before, got)
	}
	// The twin.
	if got := f.onHost(t, nil, "calls")["clone user"]; got != "ok" {
		t.Errorf("a user namespace on the host: %s; the test proves nothing", got)
	}
}

// TestSockets lists the families that a session can make a socket of.
func TestSockets(t *testing.T) {
	f := setup(t)
	want := results{
		"socket 1 1": "ok", "socket 1 2": "ok", "socket 1 3": "ok", "socket 1 5": "ok", // AF_UNIX
		"socket 2 1": "ok", "socket 2 2": "ok", // AF_INET: no raw ones
		"socket 10 1": "ok", "socket 10 2": "ok", // AF_INET6
		"socket 16 2": "ok", "socket 16 3": "ok", "netlink 0": "ok", // NETLINK_ROUTE alone
	}
	got := f.attack(t, f.alice, "sockets")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sockets inside (-want +got):\n%s", diff)
	}
	// The twin: the host has more to offer.
	if twin := f.onHost(t, nil, "sockets"); len(twin) <= len(want) {
		t.Errorf("sockets on the host: %v; the test proves nothing", twin)
	}
}

// TestMasks reads what of /proc and /sys tells of the host, or reaches into it.
func TestMasks(t *testing.T) {
	f := setup(t)
	f.in(t, f.alice, "true")
	for _, path := range []string{
		"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/kallsyms", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/sysrq-trigger", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse",
		"/dev/net/tun", "/dev/loop-control", "/proc/1/environ", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/kpagecount",
	} {
		if r := f.In(f.alice, "head -c 100 "+path, nil); r.Stdout != "" {
			t.Errorf("%s inside: %q", path, r.Stdout)
		}
	}
	for _, dir := range []string{"/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug", "/sys/kernel/security", "/proc/acpi", "/proc/scsi"} {
		if r := f.In(f.alice, "ls -A "+dir, nil); r.Stdout != "" {
			t.Errorf("%s inside: %q", dir, r.Stdout)
		}
	}
	for _, write := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
		"/proc/sys/net/ipv4/ip_forward", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/power/state",
		"/proc/1/oom_score_adj", "/proc/1/uid_map",
	} {
		if r := f.In(f.alice, "echo 1 >"+write, nil); r.Code == 0 {
			t.Errorf("%s can be written inside", write)
		}
	}
	if r := f.In(f.alice, "echo -900 >/proc/self/oom_score_adj", nil); r.Code == 0 {
		t.Error("a session can spare itself from the kernel's choice when memory is short")
	}
	// The twins.
	if read(t, "/proc/interrupts") == "" || f.in(t, f.alice, "cat /proc/self/comm") != "cat" ||
		f.in(t, f.alice, "echo 900 >/proc/self/oom_score_adj && echo ok") != "ok" {
		t.Error("nothing can be read or written at all; the test proves nothing")
	}
}

// TestNothingOfTheHost looks for processes, accounts and files of the host.
func TestNothingOfTheHost(t *testing.T) {
	f := setup(t)
	marker := f.Dir + "/marker"
	write(t, marker, "secret")
	for _, path := range []string{marker, f.intruder, f.Socket(), "/etc/shadow", "/etc/gshadow", "/etc/ssh/sshd_config", "/etc/ssh/ssh_host_ed25519_key", "/etc/sudoers", "/root/.bashrc", f.bob.Home} {
		if r := f.In(f.alice, "ls -d "+path, nil); r.Code == 0 {
			t.Errorf("%s of the host is there inside", path)
		}
	}
	for _, dir := range []string{"/root", "/boot", "/srv", "/opt", "/mnt", "/media"} {
		if r := f.In(f.alice, "ls -A "+dir, nil); r.Stdout != "" {
			t.Errorf("%s inside: %q", dir, r.Stdout)
		}
	}
	if got := f.in(t, f.alice, "ls -A /home"); got != f.alice.Name {
		t.Errorf("/home inside: %q; want the own home alone", got)
	}
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		inside := f.in(t, f.alice, "cat "+file)
		if !strings.Contains("\n"+inside, "\n"+f.alice.Name+":") || strings.Contains(inside, f.bob.Name) {
			t.Errorf("%s inside: %q; want alice and no other account", file, inside)
		}
	}
	// Every process that can be seen is of this container.
	names := strings.Fields(f.in(t, f.alice, "cat /proc/[0-9]*/comm 2>/dev/null; true"))
	for _, name := range names {
		if name != "init" && name != "bash" && name != "cat" {
			t.Errorf("process %q is seen inside", name)
		}
	}
}

// TestCgroupFiles reaches for the control files of the own limits.
func TestCgroupFiles(t *testing.T) {
	f := setup(t)
	const try = `for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*.max ` +
		`/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/*/release_agent; do ` +
		`[ -e "$f" ] && (echo 1 >"$f") 2>/dev/null && echo "$f"; done; true`
	if got := f.in(t, f.alice, try); got != "" {
		t.Errorf("written inside: %s", got)
	}
	for _, mount := range []string{"-t cgroup -o memory none /tmp", "-t cgroup2 none /tmp"} {
		if r := f.In(f.alice, "mount "+mount, nil); r.Code == 0 {
			t.Errorf("mount %s inside succeeded", mount)
		}
	}
}
