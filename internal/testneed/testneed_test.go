package testneed

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes how the test was stopped.
type recorder struct {
	testing.TB
	verdict string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.verdict = "skip: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.verdict = "fail: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// verdict runs f as a test would and returns "run", "skip" or "fail".
func verdict(t *testing.T, f func(testing.TB)) string {
	t.Helper()
	r := &recorder{TB: t, verdict: "run"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	word, _, _ := strings.Cut(r.verdict, ":")
	return word
}

func TestTool(t *testing.T) {
	tests := []struct {
		env, tool, want string
	}{
		{"", "sh", "run"},
		{"1", "sh", "run"},
		{"", "no-such-program-anywhere", "skip"},
		{"0", "no-such-program-anywhere", "skip"},
		{"1", "no-such-program-anywhere", "fail"},
	}
	for _, tt := range tests {
		t.Setenv(Env, tt.env)
		if got := verdict(t, func(tb testing.TB) { Tool(tb, tt.tool) }); got != tt.want {
			t.Errorf("%s=%q: Tool(%q) = %s; want %s", Env, tt.env, tt.tool, got, tt.want)
		}
	}
}

func TestRoot(t *testing.T) {
	t.Setenv(Env, "")
	if got := verdict(t, func(tb testing.TB) { Root(tb) }); got != "skip" {
		t.Errorf("without %s: Root = %s; want skip", Env, got)
	}
	t.Setenv(Env, "1")
	want := "fail"
	if os.Geteuid() == 0 {
		want = "run"
	}
	if got := verdict(t, func(tb testing.TB) { Root(tb) }); got != want {
		t.Errorf("with %s=1 as uid %d: Root = %s; want %s", Env, os.Geteuid(), got, want)
	}
}
