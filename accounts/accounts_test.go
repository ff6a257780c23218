package accounts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	passwdText = `root:x:0:0:root:/root:/bin/bash
# carol:x:1003:1003::/home/carol:/bin/sh
alice:x:1000:1000:Alice A.,,,:/home/alice:/usr/bin/carrelsh
bob:x:1001:100::/home/bob:
 carol:x:1002:4000::/home/carol:/bin/sh
+nis::::::
-nisno:x:1009:1009:::
broken:x:none:1004::/:/bin/sh
brokengid:x:1005::::/bin/sh
negative:x:-1:1006::/:/bin/sh
huge:x:4294967296:1006::/:/bin/sh
short:x:1007:1007
long:x:1008:1008::/:/bin/sh:more
twin:x:1010:1010::/:/bin/sh
alias:x:1010:1010::/:/bin/sh
same:x:1011:1011::/:/bin/sh
same:x:1012:1011::/:/bin/sh
copy:x:1013:1013::/:/bin/sh
copy:x:1013:1013::/:/bin/sh
max:x:4294967295:1006::/:/bin/sh`
	groupText = `root:x:0:
users:x:100:alice
alice:x:1000:
staff:x:50:alice,bob
staff2:x:50:alice
odd:x:x:alice
few:x:7
wheel:x:10:bob,alice,
`
)

// source returns a Source of files with the given texts, and with getent a
// shell script, "" for none.
func source(t testing.TB, passwd, group, getent string) *Source {
	t.Helper()
	dir := t.TempDir()
	s := &Source{
		PasswdPath: filepath.Join(dir, "passwd"), GroupPath: filepath.Join(dir, "group"), Getent: filepath.Join(dir, "getent"),
	}
	put(t, s.PasswdPath, passwd, 0o644)
	put(t, s.GroupPath, group, 0o644)
	if getent != "" {
		put(t, s.Getent, "#!/bin/sh\n"+getent, 0o755)
	}
	return s
}

func put(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

var alice = Account{
	Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice", Shell: "/usr/bin/carrelsh",
	Groups: []Group{{"alice", 1000}, {"users", 100}, {"staff", 50}, {"wheel", 10}},
}

func TestLookupFiles(t *testing.T) {
	s := source(t, passwdText, groupText, "")
	for uid, want := range map[uint32]Account{
		1000: alice,
		1001: {Name: "bob", UID: 1001, GID: 100, Home: "/home/bob", Groups: []Group{{"users", 100}, {"staff", 50}, {"wheel", 10}}},
		1002: {Name: "carol", UID: 1002, GID: 4000, Home: "/home/carol", Shell: "/bin/sh", Groups: []Group{{"", 4000}}},
		1013: {Name: "copy", UID: 1013, GID: 1013, Home: "/", Shell: "/bin/sh", Groups: []Group{{"", 1013}}},
		0:    {Name: "root", Home: "/root", Shell: "/bin/bash", Groups: []Group{{"root", 0}}},
	} {
		got, err := s.Lookup(t.Context(), uid)
		if err != nil {
			t.Errorf("Lookup(%d) = %v", uid, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Lookup(%d) (-want +got):\n%s", uid, diff)
		}
		got, err = s.LookupName(t.Context(), want.Name)
		if err != nil {
			t.Errorf("LookupName(%q) = %v", want.Name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("LookupName(%q) (-want +got):\n%s", want.Name, diff)
		}
	}
}

func TestLookupFails(t *testing.T) {
	s := source(t, passwdText, groupText, "")
	for uid, want := range map[uint32]error{
		1003: ErrNotFound, 1004: ErrNotFound, 1005: ErrNotFound, 1006: ErrNotFound, 1007: ErrNotFound, 1008: ErrNotFound,
		1009: ErrNotFound, 1010: ErrAmbiguous, 1011: ErrAmbiguous, 1012: ErrAmbiguous, 77: ErrNotFound,
	} {
		if a, err := s.Lookup(t.Context(), uid); !errors.Is(err, want) {
			t.Errorf("Lookup(%d) = %+v, %v; want %v", uid, a, err, want)
		}
	}
	for name, want := range map[string]error{
		"twin": ErrAmbiguous, "alias": ErrAmbiguous, "same": ErrAmbiguous, "broken": ErrNotFound, "+nis": ErrNotFound,
		"": ErrNotFound, "1000": ErrNotFound, "-s": ErrNotFound, "--": ErrNotFound, "a b": ErrNotFound, "alice\n": ErrNotFound,
		"alice:x": ErrNotFound, "../x": ErrNotFound, strings.Repeat("a", 257): ErrNotFound, "nobody-here": ErrNotFound,
	} {
		if a, err := s.LookupName(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("LookupName(%q) = %+v, %v; want %v", name, a, err, want)
		}
	}
}

// TestThisHost: the zero Source knows root, and no names are wrong about it.
func TestThisHost(t *testing.T) {
	var s Source
	a, err := s.Lookup(t.Context(), 0)
	if err != nil || a.Name != "root" || a.Groups[0].GID != 0 {
		t.Errorf("Lookup(0) = %+v, %v", a, err)
	}
	if _, err := s.Lookup(t.Context(), 3_999_999_999); !errors.Is(err, ErrNotFound) {
		t.Errorf("Lookup of nobody = %v; want %v", err, ErrNotFound)
	}
}

func TestFilesChange(t *testing.T) {
	s := source(t, "alice:x:1000:1000::/:/bin/sh\n", "", "")
	check := func(what, name string) {
		t.Helper()
		if a, err := s.Lookup(t.Context(), 1000); a.Name != name {
			t.Errorf("%s: Lookup(1000) = %q, %v; want %q", what, a.Name, err, name)
		}
	}
	check("at first", "alice")
	// The same size, at once, in place: only the unsettled mark tells.
	put(t, s.PasswdPath, "malia:x:1000:1000::/:/bin/sh\n", 0o644)
	check("changed in place", "malia")
	put(t, s.PasswdPath+".new", "alice:x:1000:1000::/:/bin/sh\n", 0o644)
	if err := os.Rename(s.PasswdPath+".new", s.PasswdPath); err != nil {
		t.Fatal(err)
	}
	check("replaced", "alice")
	put(t, s.GroupPath, "staff:x:50:alice\n", 0o644)
	if a, err := s.Lookup(t.Context(), 1000); len(a.Groups) != 2 {
		t.Errorf("group file changed: %+v, %v; want two groups", a, err)
	}
	put(t, s.PasswdPath, "", 0o644)
	check("emptied", "")
	if err := os.Remove(s.PasswdPath); err != nil {
		t.Fatal(err)
	}
	check("removed", "")
}

// TestFilesAreReadOnce: as long as a settled file does not change, it is not
// read again.
func TestFilesAreReadOnce(t *testing.T) {
	s := source(t, passwdText, groupText, "")
	time.Sleep(2 * settle)
	first, err := s.current()
	if err != nil {
		t.Fatal(err)
	}
	if second, err := s.current(); err != nil || first != second {
		t.Errorf("current read the files again: %v", err)
	}
}

func TestOddFiles(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o644) },
		"huge": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, maxFileBytes+1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := source(t, "", "", "")
			if err := errors.Join(os.Remove(s.PasswdPath), make(s.PasswdPath)); err != nil {
				t.Fatal(err)
			}
			if a, err := s.Lookup(t.Context(), 0); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Lookup = %+v, %v; want an error of the file", a, err)
			}
		})
	}
}

// TestLongLine: a group with a hundred thousand members breaks nothing.
func TestLongLine(t *testing.T) {
	var members strings.Builder
	for i := range 100_000 {
		members.WriteString("user" + strconv.Itoa(i) + ",")
	}
	s := source(t, passwdText, "all:x:60:"+members.String()+"alice\n"+groupText, "")
	a, err := s.Lookup(t.Context(), 1000)
	if err != nil || !cmp.Equal(a.Groups[1], Group{"all", 60}) {
		t.Errorf("Lookup = %+v, %v; want the group all", a, err)
	}
}

// A directory service in shell: it knows dora, and counts its questions.
const dora = `
printf '%s\n' "$*" >>"${0%/*}/log"
case "$*" in
"passwd -- 5000" | "passwd -- dora") echo "dora:*:5000:5000:Dora:/u/dora:/usr/bin/carrelsh" ;;
"initgroups -- dora") echo "dora                  5000 6000 7000 6000" ;;
"group -- 5000 6000 7000") echo "dora:*:5000:"; echo "lab:*:6000:dora,eve"; exit 2 ;;
*) exit 2 ;;
esac
`

var doraAccount = Account{
	Name: "dora", UID: 5000, GID: 5000, Home: "/u/dora", Shell: "/usr/bin/carrelsh",
	Groups: []Group{{"dora", 5000}, {"lab", 6000}, {"", 7000}},
}

// questions returns what getent was asked.
func questions(t *testing.T, s *Source) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(s.Getent), "log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func TestGetent(t *testing.T) {
	s := source(t, passwdText, groupText, dora)
	for range 3 {
		for _, lookup := range []func() (Account, error){
			func() (Account, error) { return s.Lookup(t.Context(), 5000) },
			func() (Account, error) { return s.LookupName(t.Context(), "dora") },
		} {
			got, err := lookup()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(doraAccount, got); diff != "" {
				t.Fatalf("look-up (-want +got):\n%s", diff)
			}
			got.Groups[0].Name = "changed" // by a caller; the next one must not see it
		}
	}
	want := []string{
		"passwd -- 5000", "initgroups -- dora", "group -- 5000 6000 7000",
		"passwd -- dora", "initgroups -- dora", "group -- 5000 6000 7000",
	}
	if diff := cmp.Diff(want, questions(t, s)); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	for range 2 {
		if a, err := s.Lookup(t.Context(), 5001); !errors.Is(err, ErrNotFound) {
			t.Errorf("Lookup(5001) = %+v, %v; want %v", a, err, ErrNotFound)
		}
	}
	if got := questions(t, s)[len(want):]; !cmp.Equal(got, []string{"passwd -- 5001"}) {
		t.Errorf("a missing account was asked for with %q; want it once", got)
	}
	// The files are asked first, and getent is not.
	if a, err := s.Lookup(t.Context(), 1000); err != nil || !cmp.Equal(a, alice) || len(questions(t, s)) != len(want)+1 {
		t.Errorf("Lookup(1000) = %+v, %v", a, err)
	}
}

func TestGetentAnswersAreChecked(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		want   error
	}{
		"another uid":            {`echo "dora:*:5001:5000::/:/bin/sh"`, ErrNotFound},
		"no uid":                 {`echo "dora:*::5000::/:/bin/sh"`, ErrUnavailable},
		"two lines":              {`echo "dora:*:5000:5000::/:/bin/sh"; echo "eve:*:5000:5000::/:/bin/sh"`, ErrUnavailable},
		"empty":                  {`:`, ErrUnavailable},
		"name is an option":      {`echo "-s:*:5000:5000::/:/bin/sh"`, ErrUnavailable},
		"name is a number":       {`echo "0:*:5000:5000::/:/bin/sh"`, ErrUnavailable},
		"name is a path":         {`echo "../a:*:5000:5000::/:/bin/sh"`, ErrUnavailable},
		"uid is out":             {`echo "dora:*:99999999999:5000::/:/bin/sh"`, ErrUnavailable},
		"name of the files":      {`echo "alice:*:5000:5000::/:/bin/sh"`, ErrAmbiguous},
		"bad groups":             {`[ $1 = passwd ] && echo "dora:*:5000:5000::/:/bin/sh" || echo "dora root"`, ErrUnavailable},
		"groups of another":      {`[ $1 = passwd ] && echo "dora:*:5000:5000::/:/bin/sh" || echo "alice 0"`, ErrUnavailable},
		"broken":                 {`exit 1`, ErrUnavailable},
		"killed":                 {`kill -9 $$`, ErrUnavailable},
		"not found":              {`exit 2`, ErrNotFound},
		"endless":                {`exec yes "dora:*:5000:5000::/:/bin/sh"`, ErrUnavailable},
		"hanging":                {`sleep 60`, ErrUnavailable},
		"deaf":                   {`trap "" TERM INT; sleep 60; sleep 60`, ErrUnavailable},
		"hanging child":          {`sleep 5 & exit 2`, ErrNotFound},
		"its own variables":      {`env | grep -v -e ^PWD= -e ^LC_ALL=C -e ^PATH= -e ^_= -e ^SHLVL= && exit 0; exit 2`, ErrNotFound},
		"its own standard input": {`read -r x && exit 0; exit 2`, ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := source(t, passwdText, groupText, tt.script)
			s.deadline = 2 * time.Second
			start := time.Now()
			a, err := s.Lookup(t.Context(), 5000)
			if !errors.Is(err, tt.want) || a.Name != "" {
				t.Errorf("Lookup = %+v, %v; want %v", a, err, tt.want)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("Lookup took %v; want about the deadline", took)
			}
		})
	}
}

// TestGetentSharesAnswers: all who ask at the same time share one question, and
// one who gives up does not end it for the others.
func TestGetentSharesAnswers(t *testing.T) {
	s := source(t, "", "", "sleep 0.3\n"+dora)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if i == 0 {
				if _, err := s.Lookup(ctx, 5000); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
					t.Errorf("Lookup with a cancelled context = %v", err)
				}
				return
			}
			if a, err := s.Lookup(t.Context(), 5000); err != nil || !cmp.Equal(a, doraAccount) {
				t.Errorf("Lookup = %+v, %v", a, err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	cancel()
	wg.Wait()
	if n := len(questions(t, s)); n != 3 {
		t.Errorf("%d questions; want 3", n)
	}
}

func TestNSSCacheIsBounded(t *testing.T) {
	var c nssCache
	for i := range 3 * maxCached {
		<-c.answer(strconv.Itoa(i), func() (Account, error) { return Account{}, nil }).done
		if len(c.answers) > maxCached {
			t.Fatalf("%d answers", len(c.answers))
		}
	}
}

func TestConcurrentLookups(t *testing.T) {
	s := source(t, passwdText, groupText, "")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				a, err := s.Lookup(t.Context(), 1000)
				if err != nil || a.Name != "alice" {
					t.Errorf("Lookup = %+v, %v", a, err)
					return
				}
				a.Groups[0].Name = "changed"
			}
		})
	}
	for range 20 {
		put(t, s.GroupPath+".new", groupText, 0o644)
		if err := os.Rename(s.GroupPath+".new", s.GroupPath); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// FuzzParse asserts that a line of passwd is an account only if writing out
// the fields gives the line again, so that nothing is guessed, and that a line
// of group gives members that no separator is part of.
func FuzzParse(f *testing.F) {
	for line := range strings.Lines(passwdText + "\n" + groupText) {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if a, ok := parseAccount(line); ok {
			fields := strings.Split(trim(line), ":")
			again := fmt.Sprintf("%s:%s:%d:%d:%s:%s:%s", a.Name, fields[1], a.UID, a.GID, fields[4], a.Home, a.Shell)
			plain := fields[2] == strconv.Itoa(int(a.UID)) && fields[3] == strconv.Itoa(int(a.GID))
			if plain && again != trim(line) || strings.ContainsAny(a.Name, ":,/ \n\x00") {
				t.Errorf("parseAccount(%q) = %+v", line, a)
			}
		}
		if g, members, ok := parseGroup(line); ok {
			if strings.ContainsAny(g.Name+strings.Join(members, ""), ":,") {
				t.Errorf("parseGroup(%q) = %+v, %q", line, g, members)
			}
		}
	})
}

func BenchmarkLookupWarm(b *testing.B) {
	s := source(b, passwdText, groupText, "")
	time.Sleep(2 * settle)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Lookup(b.Context(), 1000); err != nil {
			b.Fatal(err)
		}
	}
}
