package doctor

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the README's table")

// TestReadmeTable holds the README's table of findings to the code.
func TestReadmeTable(t *testing.T) {
	const readme = "../../README.md"
	const begin, end = "<!-- findings: written by go test ./sshd/doctor -update -->\n", "<!-- findings: end -->\n"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("the README lacks %q or %q", begin, end)
	}
	var want strings.Builder
	want.WriteString("\n| finding | worst | `--fix` | what it means |\n|---|---|---|---|\n")
	for _, k := range Kinds() {
		fix := ""
		if k.Fix {
			fix = "yes"
		}
		fmt.Fprintf(&want, "| `%s` | %v | %s | %s |\n", k.ID, k.Worst, fix, k.Title)
	}
	want.WriteString("\n")
	if *update {
		if err := os.WriteFile(readme, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Errorf("the README's table (-code +README), `go test ./sshd/doctor -update` mends it:\n%s", diff)
	}
}
