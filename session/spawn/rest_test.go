package spawn

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/session"
)

func pair(t *testing.T) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	limit := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(fds[1], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func TestListing(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	s := &Server{watch: watch{fd: -1}, live: map[int]*live{
		9: {id: 2, pid: 9, started: now.Add(time.Second)},
		7: {id: 1, pid: 7, started: now, terminal: "/dev/pts/0"},
	}}
	ours, theirs := pair(t)
	s.answerRest(asked{fd: ours, version: session.Version}, session.Sessions())
	frame, err := readFrame(theirs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := session.DecodeListing(frame)
	want := &session.Listing{Sessions: []session.Live{
		{ID: 1, PID: 7, Started: 1_700_000_000_000, Terminal: "/dev/pts/0"}, {ID: 2, PID: 9, Started: 1_700_000_001_000},
	}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("listing: %v (-want +got):\n%s", err, diff)
	}
}

// TestWatch: ends are told in one frame, to the newest listener, and kept
// while there is none.
func TestWatch(t *testing.T) {
	w := &watch{fd: -1, turns: new(turns)}
	w.ended(session.End{ID: 1})
	first, hears := pair(t)
	w.take(asked{fd: first, version: session.Version})
	next := func(fd int) []session.ID {
		t.Helper()
		frame, err := readFrame(fd)
		if err != nil {
			t.Fatal(err)
		}
		x, err := session.DecodeEnded(frame)
		if err != nil {
			t.Fatal(err)
		}
		var ids []session.ID
		for _, end := range x.Ends {
			ids = append(ids, end.ID)
		}
		return ids
	}
	if got := next(hears); !cmp.Equal(got, []session.ID{1}) {
		t.Errorf("told %v; want what was kept", got)
	}
	for id := range session.ID(3) {
		w.ended(session.End{ID: 10 + id})
	}
	if got := next(hears); !cmp.Equal(got, []session.ID{10, 11, 12}) {
		t.Errorf("told %v; want three ends at once", got)
	}
	second, also := pair(t)
	w.take(asked{fd: second, version: session.Version})
	w.ended(session.End{ID: 20})
	if got := next(also); !cmp.Equal(got, []session.ID{20}) {
		t.Errorf("the newest listener was told %v", got)
	}
	unix.Close(also)
	unix.Close(second) // leaves the watch's own duplicate
	for id := range session.ID(session.MaxEnds + 5) {
		w.ended(session.End{ID: 100 + id})
	}
	time.Sleep(2 * watchTime) // nobody is there to take it
	third, late := pair(t)
	w.take(asked{fd: third, version: session.Version})
	if got := next(late); len(got) != session.MaxEnds || got[0] != 105 {
		t.Errorf("kept %d ends from %d; want the newest %d", len(got), got[0], session.MaxEnds)
	}
}

// TestTell writes to the terminal of a user who refuses messages of others.
func TestTell(t *testing.T) {
	testneed.Root(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	const uid = 4711
	name := ttyName(master)
	if err := os.Chown(name, uid, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	slave, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0) // as the session has it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(slave)
	s := &Server{live: map[int]*live{
		1: {terminal: name, uid: uid}, 2: {uid: uid}, 3: {terminal: "/dev/pts/none", uid: uid},
		4: {terminal: name, uid: uid + 1}, // not this user's: refused by its mode
	}}
	if told := s.tell("a line"); told != 1 {
		t.Errorf("tell reached %d terminals; want 1", told)
	}
	buf := make([]byte, 256)
	n, err := unix.Read(master, buf)
	if err != nil || !strings.Contains(string(buf[:n]), "\ncarrel: a line\r") {
		t.Errorf("the terminal shows %q, %v", buf[:max(n, 0)], err)
	}
	if now, _ := unix.SetfsuidRetUid(-1); now != 0 {
		t.Errorf("the thread still has file system uid %d", now)
	}
	// A terminal that takes nothing more does not hold init.
	flood := strings.Repeat("x", 4096)
	for range 100 {
		s.tell(flood)
	}
}
