package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/carrel-sh/carrel/imagestore/internal/testprog"
	"github.com/carrel-sh/carrel/imagestore/internal/wire"
	"github.com/carrel-sh/carrel/internal/testneed"
)

const workerID = 1 << 30

func ignore(wire.Record) error { return nil }

// blocked is a reader that never returns, like a connection that hangs.
type blocked struct{}

func (blocked) Read([]byte) (int, error) { select {} }

// children returns the processes whose parent this is, zombies too.
func children(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRogueWorkers(t *testing.T) {
	testneed.Root(t)
	program := testprog.Build(t, "./testdata/rogue")
	tests := []struct {
		how  string
		want string // "" is success
	}{
		{"good", ""},
		{"fails", "entry ?[2J??" + "?: no"},
		{"silent", "unexpected EOF"},
		{"exits", "carrel-unpack died: exit status 3"},
		{"panics", "carrel-unpack died: exit status 2"},
		{"garbage", "protocol violation"},
		{"two results", "protocol violation"},
		{"hangs", context.DeadlineExceeded.Error()},
		{"done and hangs", context.DeadlineExceeded.Error()},
		{"done, closed, and hangs", ""},
		{"done without reading", ""},
		{"floods", context.DeadlineExceeded.Error()},
		{"writes much to stderr", "unexpected EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.how, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			var logged bytes.Buffer
			w := Worker{Path: program, Args: []string{tt.how}, FirstID: workerID, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
			res, err := w.Run(ctx, t.TempDir(), strings.NewReader(strings.Repeat("x", 1<<20)), ignore)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Run = %v; want %q", err, tt.want)
			}
			if tt.how == "good" && res.SizeBytes != 1<<20 {
				t.Errorf("the worker read %d bytes; want all", res.SizeBytes)
			}
			if logged.Len() > 2*maxHead {
				t.Errorf("%d bytes were logged", logged.Len())
			}
			if tt.how == "panics" && !strings.Contains(logged.String(), "of its own") {
				t.Errorf("logged %q; want the panic", logged.String())
			}
			if left := children(t); left != "" {
				t.Errorf("processes %q are left", left)
			}
		})
	}
}

func TestRunStops(t *testing.T) {
	testneed.Root(t)
	program := testprog.Build(t, "./testdata/rogue")
	broken := errors.New("connection lost")
	stop := errors.New("enough")
	tests := []struct {
		name    string
		archive io.Reader
		each    func(wire.Record) error
		timeout time.Duration
		want    error
	}{
		{"good", strings.NewReader("x"), ignore, time.Minute, nil},
		{"the reader fails", io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken)), ignore, time.Minute, broken},
		{"the reader hangs", blocked{}, ignore, 300 * time.Millisecond, context.DeadlineExceeded},
		{"the deadline has passed", strings.NewReader("x"), ignore, -1, context.DeadlineExceeded},
		{"a record is refused", strings.NewReader("x"), func(wire.Record) error { return stop }, time.Minute, stop},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
			defer cancel()
			_, err := Worker{Path: program, Args: []string{"good"}, FirstID: workerID}.Run(ctx, t.TempDir(), tt.archive, tt.each)
			if !errors.Is(err, tt.want) {
				t.Errorf("Run = %v; want %v", err, tt.want)
			}
			if left := children(t); left != "" {
				t.Errorf("processes %q are left", left)
			}
		})
	}
}

func TestRunCannotStart(t *testing.T) {
	testneed.Root(t)
	program := testprog.Build(t, "./testdata/rogue")
	private := filepath.Join(t.TempDir(), "private")
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(private, data, 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, dir, want string }{
		{"good", program, t.TempDir(), ""},
		{"no program", "/nonexistent", t.TempDir(), "no such file"},
		{"a directory", "/", t.TempDir(), "not a program"},
		{"not for everybody", private, t.TempDir(), "chmod 0755"},
		{"no directory", program, "/nonexistent", "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Worker{Path: tt.path, Args: []string{"good"}, FirstID: workerID}.Run(t.Context(), tt.dir, strings.NewReader(""), ignore)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Run = %v; want %q", err, tt.want)
			}
		})
	}
}

// TestCheckIdentity: the test itself is root, and is not taken for a worker.
func TestCheckIdentity(t *testing.T) {
	testneed.Root(t)
	if err := (Worker{FirstID: workerID}).checkIdentity(os.Getpid()); err == nil {
		t.Error("root was taken for a worker")
	}
}

func TestPrintable(t *testing.T) {
	tests := []struct{ in, want string }{
		{`entry "a\x1b": no`, `entry "a\x1b": no`},
		{"ä€😀", "ä€😀"},
		{"\x1b[2J\r\n\t\x7f", "?[2J????"},
		{"\u009b1m\u0085", "?1m?"},
		{"\xff\xfe", "?"},
		{"a\u2028b\ufffd", "a?b?"},
	}
	for _, tt := range tests {
		if got := printable(tt.in); got != tt.want {
			t.Errorf("printable(%q) = %q; want %q", tt.in, got, tt.want)
		}
	}
}
