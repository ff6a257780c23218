package fidelity

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readme has the committed table between its marks.
const (
	readme    = "../../README.md"
	tableFrom = "<!-- fidelity: written by go test ./test/fidelity -update -->\n"
	tableTo   = "<!-- fidelity: end -->\n"
)

// A table is what was measured.
type table struct {
	doors []*door

	mu    sync.Mutex
	cells map[string]map[string]error // by feature and door
}

func newTable(doors []*door) *table {
	return &table{doors: doors, cells: make(map[string]map[string]error)}
}

func (tab *table) set(feature string, d *door, err error) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	if tab.cells[feature] == nil {
		tab.cells[feature] = make(map[string]error)
	}
	tab.cells[feature][d.String()] = err
}

// get returns what was measured in a cell, if it was.
func (tab *table) get(feature string, d *door) (err error, measured bool) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	err, measured = tab.cells[feature][d.String()]
	return err, measured
}

// report says what a row's cells are that are no, and fails unless each has an
// explanation and each explanation is of one.
func (tab *table) report(t *testing.T, feature string) {
	t.Helper()
	for _, d := range tab.doors {
		err, measured := tab.get(feature, d)
		_, explained := explanation(feature, d)
		switch {
		case !measured:
		case err != nil && explained:
			t.Logf("%s: no, as explained: %v", d, err)
		case err != nil:
			t.Errorf("%s: %v", d, err)
		case explained:
			t.Errorf("%s: yes; it was explained why not", d)
		}
	}
}

// hold compares the whole table with the committed one. Where only a part was
// run, there is nothing to compare.
func (tab *table) hold(t *testing.T) {
	t.Helper()
	for _, r := range rows() {
		for _, d := range tab.doors {
			if _, measured := tab.get(r.feature, d); r.at(d) && !measured {
				t.Logf("not measured: %s at %s, so the README is not looked at", r.feature, d)
				return
			}
		}
	}
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), tableFrom)
	committed, after, closed := strings.Cut(rest, tableTo)
	if !found || !closed {
		t.Fatalf("%s has no place for the table: %q, %q", readme, tableFrom, tableTo)
	}
	measured := tab.markdown()
	if *update && !t.Failed() {
		if err := os.WriteFile(readme, []byte(before+tableFrom+measured+tableTo+after), 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Error(err)
		}
		return
	}
	if diff := cmp.Diff(committed, measured); diff != "" {
		t.Errorf("the table in %s is not what was measured (-committed +measured):\n%s", readme, diff)
	}
}

// markdown writes the table: the entry modes with the two clients that are
// measured in full, then the other clients.
func (tab *table) markdown() string {
	var b strings.Builder
	notes := &notes{}
	main := slices.DeleteFunc(slices.Clone(tab.doors), func(d *door) bool { return !atMain(d) })
	b.WriteString("\nA dash: there is no such thing there, as sftp without an sshd or a signal from a client that sends none.\n\n| feature |")
	for _, d := range main {
		fmt.Fprintf(&b, " %s |", d)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(main)) + "\n")
	for _, r := range rows() {
		if !slices.ContainsFunc(main, r.at) {
			continue
		}
		fmt.Fprintf(&b, "| %s |", r.feature)
		for _, d := range main {
			fmt.Fprintf(&b, " %s |", tab.cell(r.feature, d, notes))
		}
		b.WriteString("\n")
	}
	tab.others(&b, notes)
	for i, text := range notes.texts {
		fmt.Fprintf(&b, "\n[%d] %s\n", i+1, text)
	}
	return b.String()
}

// others writes the table of the other clients: a cell has both modes.
func (tab *table) others(b *strings.Builder, notes *notes) {
	var clients []string
	for _, d := range tab.doors {
		if !atMain(d) && !slices.Contains(clients, d.client) {
			clients = append(clients, d.client)
		}
	}
	if len(clients) == 0 {
		return
	}
	fmt.Fprintf(b, "\nOther clients; each cell is %s · %s.\n\n| feature | %s |\n|---|%s\n",
		passwd, forced, strings.Join(clients, " | "), strings.Repeat("---|", len(clients)))
	for _, r := range rows() {
		if !slices.ContainsFunc(tab.doors, func(d *door) bool { return !atMain(d) && r.at(d) }) {
			continue
		}
		fmt.Fprintf(b, "| %s |", r.feature)
		for _, client := range clients {
			var both []string
			for _, d := range tab.doors {
				if d.client == client {
					both = append(both, tab.cell(r.feature, d, notes))
				}
			}
			fmt.Fprintf(b, " %s |", strings.Join(both, " · "))
		}
		b.WriteString("\n")
	}
}

// cell is yes, no with a note, or a dash where the feature cannot be shown.
func (tab *table) cell(feature string, d *door, notes *notes) string {
	err, measured := tab.get(feature, d)
	switch {
	case !measured:
		return "–"
	case err == nil:
		return "yes"
	}
	text, _ := explanation(feature, d)
	return fmt.Sprintf("no [%d]", notes.number(text))
}

// notes are the explanations of a table, each once.
type notes struct{ texts []string }

func (n *notes) number(text string) int {
	if !slices.Contains(n.texts, text) {
		n.texts = append(n.texts, text)
	}
	return slices.Index(n.texts, text) + 1
}

// A reason explains the cells of a row that are no: at all doors, or at those
// of a mode or a client.
type reason struct {
	feature, mode, client string
	text                  string
}

// explanation returns why a cell is no.
func explanation(feature string, d *door) (string, bool) {
	for _, r := range reasons {
		if r.feature == feature && (r.mode == "" || r.mode == d.mode) && (r.client == "" || r.client == d.client) {
			return r.text, true
		}
	}
	return "", false
}

var reasons = []reason{
	{"MOTD and last login as on a plain host", forced, "", "sshd shows neither for a forced command, whatever the command and the shell are. " +
		"carrel.toml's motd and last_login show both."},
	{"a signal message of the client reaches the command", forced, "", "sshd refuses signal messages for a forced command, on a plain account, too."},
	{"a terminal on stdin alone, or on stdout alone", "", "", "A session has a terminal where both stdin and stdout are one, and pipes " +
		"otherwise: with `carrelsh -c CMD | cat` the command sees a pipe as its stdin too. The bytes are the same; a program " +
		"that asks isatty(0) is told no."},
}
