package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/config"
)

// The names that random rules and accounts are made of. Few, so that they
// meet; "ann" is an account and a group.
var (
	someUsers  = []string{"ann", "ben", "cy"}
	someGroups = []string{"ann", "lab", "ops"}
)

// randomConfig has up to five rules. It goes through the parser, so that it is
// one that a file can have; a rule for everybody comes last if at all.
func randomConfig(t *testing.T, r *rand.Rand) *config.Config {
	t.Helper()
	text := "login_shells = [\"/usr/bin/carrelsh\"]\n"
	for i := range r.IntN(5) {
		text += fmt.Sprintf("[[rule]]\nusers = %s\ngroups = %s\n", randomList(r, someUsers, "nobody1"), randomList(r, someGroups, "nogroup1"))
		if r.IntN(3) == 0 {
			text += fmt.Sprintf("allow = false\nmessage = \"rule %d\"\n", i)
			continue
		}
		text += fmt.Sprintf("image = \"image%d\"\n", i)
	}
	switch r.IntN(4) {
	case 0:
		text += "[[rule]]\nusers = [\"*\"]\nimage = \"rest\"\n"
	case 1:
		text += "[[rule]]\ngroups = [\"*\"]\nallow = false\n"
	}
	return parse(t, text)
}

// randomList returns a TOML list of some of the names and always one more,
// since a rule for nobody is a mistake.
func randomList(r *rand.Rand, names []string, always string) string {
	list := fmt.Sprintf("[%q", always)
	for _, name := range names {
		if r.IntN(4) == 0 {
			list += fmt.Sprintf(", %q", name)
		}
	}
	return list + "]"
}

func randomAccount(r *rand.Rand) Account {
	a := account(someUsers[r.IntN(len(someUsers))])
	a.Groups = nil
	for i, g := range someGroups {
		if r.IntN(3) == 0 {
			a.Groups = append(a.Groups, Group{Name: g, GID: uint32(100 + i)})
		}
	}
	if r.IntN(2) == 0 {
		a.Shell = "/bin/bash"
	}
	return a
}

// model says which rule decides, or NoRule, and whether the account is
// admitted. It is what carrel.toml(5) says, without sets and shortcuts.
func model(c *config.Config, a Account) (index int, admitted bool) {
	for i, rule := range c.Rules {
		names := func(list []string, name string) bool {
			return slices.Contains(list, name) || slices.Contains(list, "*")
		}
		matched := names(rule.Users, a.Name) || slices.Contains(rule.Groups, "*")
		for _, g := range a.Groups {
			matched = matched || names(rule.Groups, g.Name)
		}
		if matched {
			return i, !rule.Refuse
		}
	}
	return NoRule, slices.Contains(c.LoginShells, a.Shell)
}

// TestDecideAgainstModel compares Decide with the model on random
// configurations and accounts.
func TestDecideAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		c := randomConfig(t, r)
		p := New(c)
		a := randomAccount(r)
		index, admitted := model(c, a)
		d, err := p.Decide(Request{Account: a})
		if (err == nil) != admitted {
			t.Fatalf("Decide(%+v) with rules %+v = %+v, %v; want admitted = %v", a, c.Rules, d, err, admitted)
		}
		if !admitted {
			if got := refusal(t, p, a).Rule; got != index {
				t.Fatalf("Decide(%+v) with rules %+v is refused by rule %d; want %d", a, c.Rules, got, index)
			}
			continue
		}
		want := c.Settings
		if index != NoRule {
			want = c.Rules[index].Settings
		}
		if d.Rule != index || d.Image != want.Image || !cmp.Equal(d.Limits, want.Limits) {
			t.Fatalf("Decide(%+v) with rules %+v = %+v; want rule %d", a, c.Rules, d, index)
		}
	}
}
