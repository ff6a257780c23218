package session

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseInvocation(t *testing.T) {
	const own = "/usr/bin/carrelsh"
	isOwn := func(s string) bool { return s == own }
	env := func(original string) func(string) string {
		return func(name string) string {
			if name == "SSH_ORIGINAL_COMMAND" {
				return original
			}
			return ""
		}
	}
	text := func(s string, args ...string) Command {
		if args == nil {
			args = []string{}
		}
		return Command{HasText: true, Text: s, Args: args}
	}
	login := Command{Login: true}
	loginText := Command{Login: true, HasText: true, Text: "x", Args: []string{}}
	for _, test := range []struct {
		argv     []string
		original string
		want     Command
		ok       bool
	}{
		{argv: []string{"carrelsh"}, ok: true},
		{argv: []string{"-carrelsh"}, want: login, ok: true},
		{argv: []string{"-su"}, want: login, ok: true},
		{argv: []string{"carrelsh", "-l"}, want: login, ok: true},
		{argv: []string{"carrelsh", "--login"}, want: login, ok: true},
		{argv: []string{"carrelsh", "-i"}, ok: true},
		{argv: []string{"carrelsh", "-c", "a 'b\n;' $x"}, want: text("a 'b\n;' $x"), ok: true},
		{argv: []string{"carrelsh", "-c", "-x"}, want: text("-x"), ok: true},
		{argv: []string{"carrelsh", "-c", "x", "name", "one"}, want: text("x", "name", "one"), ok: true},
		{argv: []string{"carrelsh", "-lc", "x"}, want: loginText, ok: true},
		{argv: []string{"-carrelsh", "-c", "x"}, want: loginText, ok: true},
		{argv: []string{"carrelsh", "-c", "--", "x"}, want: text("x"), ok: true},
		{argv: []string{"carrelsh", "-c", ""}, want: text(""), ok: true},

		// A forced command that is carrelsh: what the client asked for.
		{argv: []string{"carrelsh", "-c", own}, original: "id; ls", want: Command{HasText: true, Text: "id; ls", Args: []string{}}, ok: true},
		{argv: []string{"carrelsh", "-c", own}, want: Command{Login: true, Args: []string{}}, ok: true},
		// The variable means nothing otherwise.
		{argv: []string{"carrelsh", "-c", "x"}, original: "evil", want: text("x"), ok: true},
		{argv: []string{"-carrelsh"}, original: "evil", want: login, ok: true},
		{argv: []string{"carrelsh", "-c", own, "x"}, original: "evil", want: text(own, "x"), ok: true},

		{argv: nil},
		{argv: []string{"carrelsh", "-c"}},
		{argv: []string{"carrelsh", "-x"}},
		{argv: []string{"carrelsh", "script"}},
		{argv: []string{"carrelsh", "--socket"}},
		{argv: []string{"carrelsh", "--nonsense"}},
		{argv: []string{"carrelsh", "-cx"}},
	} {
		got, ok := ParseInvocation(test.argv, env(test.original), isOwn)
		if ok != test.ok || (ok && !cmp.Equal(got.Command, test.want)) {
			t.Errorf("ParseInvocation(%q, original %q) = %+v, %v; want %+v, %v", test.argv, test.original, got.Command, ok, test.want, test.ok)
		}
	}
}
