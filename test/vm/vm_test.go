//go:build vm

package vm

import (
	_ "embed"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/internal/testneed"
)

//go:embed guest.sh
var guest []byte

// TestWithoutSystemd runs guest.sh as PID 1, on each release's kernel.
func TestWithoutSystemd(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) { withoutSystemd(t, suite) })
	}
}

func withoutSystemd(t *testing.T, suite string) {
	testneed.Root(t)
	image := image(t, suite)
	kernel, err := os.ReadFile(filepath.Join(image, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSpace(string(kernel))
	seed := t.TempDir()
	run(t, "cp", packages(t)[0], filepath.Join(seed, "carrel.deb"))
	if err := os.WriteFile(filepath.Join(seed, "guest.sh"), guest, 0o755); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	m := boot(t, image, seed, "init=/seed/guest.sh kernel="+version)
	var out string
	ended := until(8*time.Minute, func() bool {
		text, _ := os.ReadFile(m.console) // QEMU makes it
		out = string(text)
		return strings.Contains(out, "\nend")
	})
	checks := regexp.MustCompile(`(?m)^(ok|not ok) (.*?)\r?$`).FindAllStringSubmatch(out, -1)
	for _, c := range checks {
		if c[1] != "ok" {
			t.Error(c[2])
		}
	}
	if want := strings.Count(string(guest), "\ncheck "); len(checks) != want || !ended {
		t.Errorf("%d checks reported; want %d and the end", len(checks), want)
	}
	t.Logf("%s: %d checks in %v", version, len(checks), time.Since(begin).Round(time.Second))
}
