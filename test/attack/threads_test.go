package attack

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// crowd forks up to the limit, and has whoever ends replaced; beside that it
// keeps connecting to the socket that its argument names, says nothing, and
// writes what it is told there. It ends with its standard input.
const crowd = `
use IO::Select; use IO::Socket::UNIX; use POSIX ();
$| = 1;
$SIG{CHLD} = "IGNORE";
my ($in, $said, @silent, %told) = (IO::Select->new(\*STDIN), 0);
until ($in->can_read(0.02)) {
	while (defined(my $pid = fork)) {
		if (!$pid) { close STDIN; sleep 1 + rand 3; POSIX::_exit(0) }
		push @children, $pid;
	}
	print "EAGAIN\n" if $!{EAGAIN} && !$said++;
	if (my $s = IO::Socket::UNIX->new(Peer => $ARGV[0])) { push @silent, $s; ++$connected }
	for my $s (IO::Select->new(@silent)->can_read(0)) {
		++$told{sysread($s, my $text, 4096) ? "busy" : "dropped"};
		@silent = grep { $_ != $s } @silent;
	}
}
print join(" ", map { "$_ $told{$_}" } sort keys %told), "\n";
kill 9, @children;
`

// TestThreads has alice at her limit of processes, with programs that ask for
// nothing at the socket of the container and logins that come in and vanish:
// PID 1, whose threads count, too, wants no further one. The Go runtime would
// end it.
func TestThreads(t *testing.T) {
	f := setup(t)
	f.empty(t)
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	restart := func(config string) {
		t.Helper()
		if _, err := f.Start(host.Options{Config: config}); err != nil {
			t.Fatal(err)
		}
	}
	restart("[limits]\npids = 40\n")
	t.Cleanup(func() {
		f.empty(t)
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
		restart(limits)
	})
	init := f.initOf(t, f.alice)
	before := threads(t, init.Pid)
	if r := f.In(f.alice, "cat >~/crowd", strings.NewReader(crowd)); r.Code != 0 || r.Err != nil {
		t.Fatal(r)
	}
	stop := f.background(t, f.alice, "exec perl ~/crowd "+session.OwnSocket, "EAGAIN")
	refused := f.flood(t, 4*time.Second)
	if now := threads(t, init.Pid); now != before {
		t.Errorf("threads of PID 1: %s; they were %s", now, before)
	}
	// The twin: it was at the limit, and had all the silent ones that it takes.
	said := stop()
	if refused == 0 || !strings.Contains(said, "busy ") || !strings.Contains(said, "dropped ") {
		t.Errorf("%d logins refused, the crowd said %q; the test shows nothing", refused, said)
	}
	f.wantLogin(t)
	if now := f.initOf(t, f.alice); now.Pid != init.Pid {
		t.Errorf("PID 1 was %d and is %d", init.Pid, now.Pid)
	}
}

// flood logs alice in, six times at once, over and over, two of them with a
// client that vanishes, and returns how often she was refused for her limit.
func (f *fixture) flood(t *testing.T, d time.Duration) (refused int) {
	t.Helper()
	var mu sync.Mutex
	var logins sync.WaitGroup
	end := time.Now().Add(d)
	for i := range 6 {
		logins.Go(func() {
			for time.Now().Before(end) {
				if i%3 == 0 {
					f.vanish(t)
					continue
				}
				r := f.In(f.alice, "true", nil)
				mu.Lock()
				switch {
				case strings.Contains(r.Stderr, "process limit"):
					refused++
				case r.Err != nil || r.Code == 74:
					t.Errorf("login: %v", r)
				}
				mu.Unlock()
			}
		})
	}
	logins.Wait()
	return refused
}

// vanish logs alice in and kills the client.
func (f *fixture) vanish(t *testing.T) {
	t.Helper()
	cmd := f.Direct(f.alice, "-c", "sleep 60")
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	time.Sleep(100 * time.Millisecond)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// wantLogin waits until alice gets in again.
func (f *fixture) wantLogin(t *testing.T) {
	t.Helper()
	if !eventually(func() bool { return f.In(f.alice, "true", nil).Code == 0 }) {
		t.Error("no login afterwards")
	}
}

// threads names those of a process.
func threads(t *testing.T, pid int) string {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	if err != nil {
		t.Fatalf("PID 1 is gone: %v", err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}
