package survive

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var mark = regexp.MustCompile(`failpoint\.Here\("([^"]+)"\)`)

// points returns the marks of the whole tree.
func points(t *testing.T) (names []string) {
	t.Helper()
	for _, dir := range []string{"../../sandbox", "../../session", "../../imagestore"} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range mark.FindAllStringSubmatch(string(text), -1) {
				names = append(names, m[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(names) < 10 {
		t.Fatalf("only %q", names)
	}
	return names
}

// TestKilledBetweenSteps kills carreld at each mark during somebody's first
// login, or while their container is being stopped.
func TestKilledBetweenSteps(t *testing.T) {
	h := setup(t)
	start(t, h, host.Options{})
	t.Cleanup(func() { _ = h.Stop() })
	// What the first container of a host makes for all.
	first := account(t, h, "f")
	if r := h.In(first, "true", nil); r.Code != 0 {
		t.Fatal(r)
	}
	if r := h.Carrel("stop", first.Name); r.Code != 0 {
		t.Fatal(r)
	}
	for i, point := range points(t) {
		t.Run(point, func(t *testing.T) {
			a := account(t, h, fmt.Sprintf("k%d", i))
			empty, err := h.Steady()
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Stop(); err != nil {
				t.Fatal(err)
			}
			start(t, h, host.Options{Before: fmt.Sprintf("export CARREL_FAILPOINT=%q", point)})
			// The mark is passed by the first login, or by the stop behind it.
			r := h.In(a, "true", nil)
			if h.Daemon().Running() {
				_ = h.Carrel("stop", a.Name)
			} else if r.Code == 0 {
				t.Logf("the login was through before carreld was: %v", r)
			}
			for end := time.Now().Add(10 * time.Second); h.Daemon().Running(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("carreld never came by there")
				}
			}
			start(t, h, host.Options{})
			if r := h.In(a, "echo works", nil); r.Code != 0 || r.Stdout != "works\n" {
				t.Errorf("the next login: %v", r)
			}
			inits, err := h.Inits()
			if err != nil || len(inits) != 1 {
				t.Errorf("%d containers, %v; want one", len(inits), err)
			}
			if r := h.Carrel("stop", a.Name); r.Code != 0 {
				t.Errorf("carrel stop: %v", r)
			}
			left, err := h.Settle(withoutPids(empty, h))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(processless(empty), processless(left)); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
}

// withoutPids is what a footprint must come to with the daemon of now.
func withoutPids(f host.Footprint, h *host.Host) host.Footprint {
	out := processless(f)
	out = append(out, fmt.Sprintf("process %d %s", h.Daemon().Pid, h.Path("carreld")))
	slices.Sort(out)
	return out
}

// processless leaves out carreld's own line, which has its pid.
func processless(f host.Footprint) host.Footprint {
	return slices.DeleteFunc(slices.Clone(f), func(line string) bool {
		return strings.HasPrefix(line, "process ") && strings.HasSuffix(line, "/carreld")
	})
}
