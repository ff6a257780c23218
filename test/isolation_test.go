package test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestTwoUsers sets something up as alice and looks for it as bob. Each look
// is done by alice as well, in another session: hers must find it, so that a
// look that cannot find anything does not pass.
func TestTwoUsers(t *testing.T) {
	f := setup(t)
	home := f.alice.Home
	tests := []struct {
		name, setup, look string
		want              string // what alice sees; bob must not
	}{
		{"process", "setsid sleep 4242 >/dev/null 2>&1 &", "pgrep -fx 'sleep 4242' >/dev/null && echo seen", "seen"},
		{"home", "echo s >~/secret; chmod 777 ~ ~/secret", "cat " + home + "/secret", "s"},
		{"tmp", "echo s >/tmp/secret; chmod 777 /tmp/secret", "cat /tmp/secret", "s"},
		{"var/tmp", "mkdir -p /var/tmp && echo s >/var/tmp/secret", "cat /var/tmp/secret", "s"},
		{"shm", "echo s >/dev/shm/secret; chmod 777 /dev/shm/secret", "cat /dev/shm/secret", "s"},
		{"hostname", "", "uname -n", ""},
		{"account", "", "getent passwd " + f.alice.Name + " | cut -d: -f1", f.alice.Name},
		{"group", "", "getent group " + f.alice.Name + " | cut -d: -f1", f.alice.Name},
		{"TCP on loopback", listen("INET", "2000"), "exec 3<>/dev/tcp/127.0.0.1/2000 && cat <&3", "hello"},
		{"TCP in /proc", "", "grep -o ':07D0 00000000:0000 0A' /proc/net/tcp", ":07D0 00000000:0000 0A"},
		{"abstract socket", listen("UNIX", `\0carrel-test`), "grep -o @carrel-test /proc/net/unix", "@carrel-test"},
		{"shared memory", "ipcmk -M 64 >/dev/null", "ipcs -m | grep -c ^0x", "1"},
		{"message queue", "ipcmk -Q >/dev/null", "ipcs -q | grep -c ^0x", "1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.setup != "" {
				f.in(t, f.alice, tt.setup)
			}
			want := tt.want
			if want == "" {
				want = f.in(t, f.alice, tt.look)
			}
			hers := eventuallyIn(f, f.alice, tt.look, want)
			if strings.TrimSpace(hers.Stdout) != want || want == "" {
				t.Fatalf("alice: %q: %v; want %q", tt.look, hers, want)
			}
			if r := f.In(f.bob, tt.look, nil); strings.Contains(r.Stdout, want) || r.Err != nil {
				t.Errorf("bob: %q: %v; want nothing of alice's", tt.look, r)
			}
		})
	}
	f.empty(t) // the listeners would stay
}

// listen returns a command that leaves a greeter on a socket behind.
func listen(family, address string) string {
	arg := "LocalAddr=>q(127.0.0.1),LocalPort=>" + address + ",ReuseAddr=>1"
	if family == "UNIX" {
		arg = `Local=>"` + address + `"`
	}
	return fmt.Sprintf(`setsid perl -MIO::Socket -e '$s=IO::Socket::%s->new(%s,Listen=>5) or die $!; `+
		`while($c=$s->accept){print $c "hello\n";close $c}' </dev/null >/dev/null 2>&1 &`, family, arg)
}

// eventuallyIn repeats a look until it shows want: a background process needs
// a moment to begin.
func eventuallyIn(f *fixture, a host.Account, look, want string) host.Result {
	var r host.Result
	for range 100 {
		if r = f.In(a, look, nil); strings.TrimSpace(r.Stdout) == want {
			break
		}
		f.In(a, "sleep 0.1", nil)
	}
	return r
}

// TestTwoTerminals has both users at a terminal at once.
func TestTwoTerminals(t *testing.T) {
	f := setup(t)
	f.empty(t)
	const count = "ls /dev/pts | grep -c '^[0-9]'"
	alice, bob := terminal(t, f, f.alice, "-l"), terminal(t, f, f.bob, "-l")
	for name, term := range map[string]*host.Terminal{"alice": alice, "bob": bob} {
		if got := ask(t, term, count, `[\n\r](\d+)\r`); got != "1" {
			t.Errorf("%s sees %s terminals; want only the own", name, got)
		}
	}
	// The twin: a second terminal of one's own is seen.
	second := terminal(t, f, f.alice, "-l")
	if got := ask(t, second, count, `[\n\r](\d+)\r`); got != "2" {
		t.Errorf("alice sees %s terminals; want her two", got)
	}
	if got := ask(t, bob, count, `[\n\r](\d+)\r`); got != "1" {
		t.Errorf("bob sees %s terminals after alice's second login; want 1", got)
	}
}

// TestHostIsOutOfSight looks for what belongs to the host from inside.
func TestHostIsOutOfSight(t *testing.T) {
	f := setup(t)
	marker := f.Dir + "/seen-from-inside"
	if err := os.WriteFile(marker, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ command, not string }{
		{"ls " + marker + " 2>&1; true", marker + "\n"},
		{"ls " + f.Socket() + " 2>&1; true", f.Socket() + "\n"},
		{"getent passwd", f.bob.Name},
		{"getent passwd", f.plain.Name},
		{"cat /etc/shadow 2>&1; true", "root:"},
		{"ls -A /root 2>&1; true", "ssh"},
		{"ls /home", f.bob.Name},
		{"ls /sys/class/net", "eth0"},
		{"cat /proc/mounts", f.StateDir + " "},
		{"cat /proc/[0-9]*/comm", "carreld"},
	}
	for _, tt := range tests {
		if got := f.in(t, f.alice, tt.command); strings.Contains(got+"\n", tt.not) || got == "" && tt.not == "eth0" {
			t.Errorf("%q inside shows %q of the host: %q", tt.command, tt.not, got)
		}
		// The twin: on the host the same command does show it.
		cmd := oracle(f, host.Entry{Name: "direct"}, tt.command)
		cmd.SysProcAttr.Credential = nil
		if out := host.Run(cmd).Stdout; !strings.Contains(out, tt.not) && tt.not != "ssh" && tt.not != "eth0" && !strings.HasPrefix(tt.not, f.StateDir) {
			t.Errorf("%q on the host does not show %q: the test proves nothing", tt.command, tt.not)
		}
	}
}

// TestRights looks at what a session may do.
func TestRights(t *testing.T) {
	f := setup(t)
	status := f.in(t, f.alice, "cat /proc/self/status")
	for _, want := range []string{
		"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, want+"\n") {
			t.Errorf("/proc/self/status has no line %q", want)
		}
	}
	var ids []string
	for _, g := range f.alice.Groups {
		ids = append(ids, fmt.Sprint(g))
	}
	slices.Sort(ids)
	got := strings.Fields(f.in(t, f.alice, "id -G"))
	slices.Sort(got)
	if !slices.Equal(got, ids) {
		t.Errorf("id -G inside: %v; want %v", got, ids)
	}
	for _, denied := range []string{
		"unshare -U true", "mount -t tmpfs none /tmp", "cat /proc/1/environ", "kill -KILL 1", "mknod /tmp/null c 1 3",
		"echo 1 >/proc/sys/kernel/panic", "echo x >/usr/x", "dmesg", "cat /proc/kcore", "chroot / true", "su -c true",
		"perl -e 'socket(S,38,5,0) or exit 1'", // AF_ALG
	} {
		if r := f.In(f.alice, "exec 2>/dev/null; "+denied, nil); r.Code == 0 || r.Err != nil {
			t.Errorf("%q inside: %v; want a refusal", denied, r)
		}
	}
	// The twin of AF_ALG: a socket of an allowed family can be made like that.
	f.in(t, f.alice, "perl -e 'socket(S,1,1,0) or exit 1'")
}

// TestIDRanges compares the id maps of several containers that run at once.
func TestIDRanges(t *testing.T) {
	f := setup(t)
	f.empty(t)
	users := []host.Account{f.alice, f.bob, f.account(t, "c", ""), f.account(t, "d", "")}
	for _, a := range users {
		f.in(t, a, "true")
	}
	inits, err := f.Inits()
	if err != nil {
		t.Fatal(err)
	}
	if len(inits) != len(users) {
		t.Fatalf("%d containers; want %d", len(inits), len(users))
	}
	type owned struct {
		host.IDRange
		pid int
	}
	var all []owned
	for _, p := range inits {
		ranges, err := host.UIDMap(p.Pid)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range ranges {
			all = append(all, owned{r, p.Pid})
		}
	}
	for i, a := range all {
		if a.Outside < 1<<16 || a.Size > 65536 {
			t.Errorf("container %d maps %d ids from the host's %d on", a.pid, a.Size, a.Outside)
		}
		for _, b := range all[:i] {
			if overlap(a.IDRange, b.IDRange) {
				t.Errorf("containers %d and %d: %+v and %+v overlap", a.pid, b.pid, a.IDRange, b.IDRange)
			}
		}
	}
}

func overlap(a, b host.IDRange) bool {
	return uint64(a.Outside) < uint64(b.Outside)+uint64(b.Size) && uint64(b.Outside) < uint64(a.Outside)+uint64(a.Size)
}

// TestOverlap is the twin of TestIDRanges.
func TestOverlap(t *testing.T) {
	a := host.IDRange{Outside: 100, Size: 10}
	for _, tt := range []struct {
		first, size uint32
		want        bool
	}{{110, 5, false}, {109, 1, true}, {90, 10, false}, {90, 11, true}, {0, 1000, true}, {1 << 31, 1 << 31, false}} {
		if got := overlap(a, host.IDRange{Outside: tt.first, Size: tt.size}); got != tt.want {
			t.Errorf("overlap(%+v, %d+%d) = %v; want %v", a, tt.first, tt.size, got, tt.want)
		}
	}
}
