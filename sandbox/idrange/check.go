package idrange

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// HostFiles are the account files that Check reads. An empty path means the
// usual one; a file that does not exist has no lines.
type HostFiles struct {
	Passwd string // /etc/passwd
	Group  string // /etc/group
	Subuid string // /etc/subuid
	Subgid string // /etc/subgid
}

func (h HostFiles) withDefaults() HostFiles {
	set := func(s *string, path string) {
		if *s == "" {
			*s = path
		}
	}
	set(&h.Passwd, "/etc/passwd")
	set(&h.Group, "/etc/group")
	set(&h.Subuid, "/etc/subuid")
	set(&h.Subgid, "/etc/subgid")
	return h
}

// A Conflict is one other owner of ids in the region.
type Conflict struct {
	Source string // the file, or "systemd"
	Line   int    // from 1; 0 for systemd
	Text   string // the name on the line, or what systemd calls the range
	First  uint64 // ids
	Last   uint64
	Remedy string
}

func (c Conflict) String() string {
	where := c.Source
	if c.Line > 0 {
		where = fmt.Sprintf("%s:%d", c.Source, c.Line)
	}
	return fmt.Sprintf("%s: %q has ids %d-%d: %s", where, c.Text, c.First, c.Last, c.Remedy)
}

// Conflicts is the error of Check, with everything that was found.
type Conflicts struct {
	Region Region
	Found  []Conflict // never empty
}

func (e *Conflicts) Error() string {
	lines := make([]string, len(e.Found))
	for i, c := range e.Found {
		lines[i] = c.String()
	}
	return fmt.Sprintf("id region %v of Carrel is not free: %s", e.Region, strings.Join(lines, "; "))
}

// systemdRanges are those that systemd gives out without a line in any file:
// https://systemd.io/UIDS-GIDS. Those below 65536 cannot meet a region.
var systemdRanges = []struct {
	name        string
	first, last uint64
}{
	{"container uid ranges (systemd-nspawn -U)", 524_288, 1_879_048_191},
	{"foreign images", 2_147_352_576, 2_147_418_111},
}

// Check looks for other owners of the region's ids and returns *Conflicts with
// all of them, or an error if a file cannot be read. Whoever shares an id with
// a container's user owns that user's files.
func (t *Table) Check(files HostFiles) error { return t.region.Check(files) }

// Check is Table.Check, for a region that has no table yet.
func (g Region) Check(files HostFiles) error {
	if err := g.check(); err != nil {
		return err
	}
	files = files.withDefaults()
	var found []Conflict
	for _, s := range []struct {
		path  string
		parse func(fields []string) (spans [][2]uint64)
		what  string
	}{
		{files.Passwd, passwdSpans, "give the account ids outside"},
		{files.Group, groupSpans, "give the group a gid outside"},
		{files.Subuid, subidSpans, "remove the line or move it outside (usermod --del-subuids, --add-subuids)"},
		{files.Subgid, subidSpans, "remove the line or move it outside (usermod --del-subgids, --add-subgids)"},
	} {
		data, err := os.ReadFile(s.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("check id region: %w", err)
		}
		found = append(found, g.scan(s.path, string(data), s.parse, s.what)...)
	}
	for _, s := range systemdRanges {
		if g.meets(s.first, s.last) {
			found = append(found, Conflict{
				Source: "systemd", Text: s.name, First: s.first, Last: s.last,
				Remedy: g.remedy("nothing else can move systemd's"),
			})
		}
	}
	if len(found) > 0 {
		return &Conflicts{Region: g, Found: found}
	}
	return nil
}

// scan finds the lines of one file that own ids of the region.
func (g Region) scan(path, data string, parse func([]string) [][2]uint64, what string) []Conflict {
	var found []Conflict
	number := 0
	for line := range strings.Lines(data) {
		number++
		fields := strings.Split(strings.TrimSpace(line), ":")
		if strings.HasPrefix(fields[0], "#") {
			continue
		}
		for _, span := range parse(fields) {
			if !g.meets(span[0], span[1]) {
				continue
			}
			found = append(found, Conflict{
				Source: path, Line: number, Text: fields[0],
				First: span[0], Last: span[1], Remedy: g.remedy(what),
			})
			break
		}
	}
	return found
}

func (g Region) remedy(what string) string {
	return fmt.Sprintf("%s %v, or, before the first user has a range, choose another region in carrel.toml", what, g)
}

// meets reports whether the ids from first to last touch the region.
func (g Region) meets(first, last uint64) bool {
	return first < g.end() && last >= uint64(g.First)
}

// The parsers return the ids that a line owns, each as first and last. A line
// that does not parse owns none: the C library and shadow skip it too.

func passwdSpans(fields []string) [][2]uint64 {
	if len(fields) < 4 {
		return nil
	}
	return append(span(fields[2], "1"), span(fields[3], "1")...)
}

func groupSpans(fields []string) [][2]uint64 {
	if len(fields) < 3 {
		return nil
	}
	return span(fields[2], "1")
}

func subidSpans(fields []string) [][2]uint64 {
	if len(fields) != 3 {
		return nil
	}
	return span(fields[1], fields[2])
}

func span(first, count string) [][2]uint64 {
	f, ferr := strconv.ParseUint(first, 10, 32)
	n, nerr := strconv.ParseUint(count, 10, 33)
	if ferr != nil || nerr != nil || n == 0 {
		return nil
	}
	return [][2]uint64{{f, f + n - 1}}
}
