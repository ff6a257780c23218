package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Parse checks the text of a configuration file. The name is for messages
// only. The error is always a Problems.
func Parse(name string, data []byte) (*Config, error) {
	d := decoder{file: name}
	var doc map[string]any
	if _, err := toml.Decode(string(data), &doc); err != nil {
		d.syntax(string(data), err)
		return nil, d.problems
	}
	d.lines = indexLines(string(data))
	c := d.config(&table{decoder: &d, values: doc})
	if len(d.problems) > 0 {
		slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, d.problems
	}
	return c, nil
}

// A decoder collects the problems of one file.
//
// It walks over the plain maps that the TOML package returns, instead of
// having them decoded into structs: that stops at the first wrong type, and
// takes "Image" for "image".
type decoder struct {
	file     string
	lines    lineIndex
	problems Problems
}

// syntax reports an error of the TOML package, which stops at the first. Its
// own line is one too far when a line ends too early.
func (d *decoder) syntax(text string, err error) {
	p := Problem{File: d.file, What: fmt.Sprintf("not TOML: %q", err), Remedy: "correct the syntax"}
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		p.Line = 1 + strings.Count(text[:min(max(pe.Position.Start, 0), len(text))], "\n")
		p.What = "not TOML: " + asciiQuoted(pe.Message)
		p.Remedy = fmt.Sprintf("correct the syntax near column %d", max(pe.Position.Col, 1))
	}
	d.problems = append(d.problems, p)
}

// asciiQuoted returns s with escapes for whatever is not printable, without
// quotes around it.
func asciiQuoted(s string) string {
	if printable(s) {
		return s
	}
	q := fmt.Sprintf("%+q", s)
	return q[1 : len(q)-1]
}

func (d *decoder) report(path string, bad *fault) {
	d.problems = append(d.problems, Problem{File: d.file, Line: d.lines.at(path), What: bad.what, Remedy: bad.remedy})
}

// config reads the top level.
func (d *decoder) config(t *table) *Config {
	c := Default()
	d.settings(t, &c.Settings)
	value(t, "enforce", oneOf(&c.Enforce, EnforceStrict, EnforceBestEffort))
	if paths, ok := t.list("login_shells", checkPath); ok {
		c.LoginShells = paths
	}
	if ids := t.table("ids"); ids != nil {
		d.ids(ids, &c.IDs)
	}
	for _, rule := range t.tables("rule") {
		c.Rules = append(c.Rules, d.rule(rule, c))
	}
	t.end()
	d.consider(c)
	return c
}

// settings reads the keys that stand at the top level and in rules alike, on
// top of what s holds.
func (d *decoder) settings(t *table, s *Settings) {
	value(t, "image", imageName(&s.Image))
	value(t, "shell", absolutePath(&s.Shell))
	value(t, "home", oneOf(&s.Home, HomePrivate, HomeHost, HomeNone))
	value(t, "linger", oneOf(&s.Linger, LingerKeep, LingerKill))
	value(t, "motd", func(path string) *fault {
		if path == motdNone {
			s.Motd = ""
			return nil
		}
		return absolutePath(&s.Motd)(path)
	})
	value(t, "last_login", func(told bool) *fault {
		s.LastLogin = told
		return nil
	})
	value(t, "agent_forwarding", func(allowed bool) *fault {
		s.NoAgent = !allowed
		return nil
	})
	if l := t.table("limits"); l != nil {
		value(l, "memory", sizeBetween(&s.Limits.MemoryBytes, minMemoryBytes, maxMemoryBytes))
		value(l, "swap", sizeBetween(&s.Limits.SwapBytes, 0, maxMemoryBytes))
		value(l, "cpu_weight", integer(&s.Limits.CPUWeight, 1, maxCPUWeight))
		value(l, "cpu_quota", quota(&s.Limits.CPUQuotaMicros))
		value(l, "pids", integer(&s.Limits.Pids, minPids, maxPids))
		l.end()
	}
	if i := t.table("idle"); i != nil {
		value(i, "freeze", idleTime(&s.Idle.Freeze))
		value(i, "stop", idleTime(&s.Idle.Stop))
		i.end()
		if s.Idle.Stop != 0 && s.Idle.Stop < s.Idle.Freeze {
			d.report(i.path, faultf("let stop be the longer time, or freeze never", "a container would stop before it is frozen"))
		}
	}
	if words, ok := t.list("self_service", checkSelf); ok {
		s.SelfService = nil
		for _, w := range words {
			s.SelfService = append(s.SelfService, SelfCommand(w))
		}
	}
	if e := t.table("env"); e != nil {
		d.env(e, s)
	}
}

// motdNone is a motd that shows nothing.
const motdNone = "none"

// env reads variables on top of those of s.
func (d *decoder) env(t *table, s *Settings) {
	if s.Env == nil {
		s.Env = map[string]string{}
	}
	for _, name := range slices.Sorted(maps.Keys(t.values)) {
		value(t, name, func(v string) *fault {
			s.Env[name] = v
			return checkEnv(name, v)
		})
	}
	if len(s.Env) > maxEnv {
		d.report(t.path, faultf("remove some", "%d variables are more than %d", len(s.Env), maxEnv))
	}
}

func (d *decoder) ids(t *table, r *IDRegion) {
	value(t, "first", blocks(&r.First))
	value(t, "count", blocks(&r.Count))
	t.end()
	// Both are at most idRegionEnd < 2^31, so the sum does not wrap.
	if r.First+r.Count > idRegionEnd {
		d.report(t.path, faultf(fmt.Sprintf("let first + count be at most %d", idRegionEnd), "the region is too high"))
	}
	if r.Count < 2*BlockSize {
		d.report(t.path, faultf(fmt.Sprintf("write a count of at least %d", 2*BlockSize), "the region has no room for a user"))
	}
}

// rule reads one [[rule]] whose missing values are those of c.
func (d *decoder) rule(t *table, c *Config) Rule {
	r := Rule{Line: d.lines.at(t.path), Settings: c.clone()}
	r.Users, _ = t.list("users", checkName)
	r.Groups, _ = t.list("groups", checkName)
	value(t, "allow", func(allow bool) *fault {
		r.Refuse = !allow
		return nil
	})
	value(t, "message", message(&r.Message))
	if r.Message != "" && !r.Refuse {
		d.report(t.path+".message", faultf("remove it, or write allow = false", "only a refusal has a message"))
	}
	d.settings(t, &r.Settings)
	if r.Refuse {
		t.refuseSettings()
		r.Settings = Settings{}
	}
	t.end()
	if len(r.Users)+len(r.Groups) == 0 {
		d.report(t.path, faultf(`write users = ["*"] for everybody`, "the rule names nobody"))
	}
	return r
}

// consider reports what is wrong between keys that are right by themselves.
func (d *decoder) consider(c *Config) {
	d.checkShell(c, c.Shell, "shell")
	catchAll := 0
	for i := range c.Rules {
		r := &c.Rules[i]
		path := fmt.Sprintf("rule[%d]", i)
		if catchAll != 0 {
			d.report(path, faultf("move it before that rule", "the rule has no effect after the one for everybody in line %d", catchAll))
		} else if r.everybody() {
			catchAll = r.Line
		}
		if !r.Refuse && r.Shell != c.Shell {
			d.checkShell(c, r.Shell, path+".shell")
		}
	}
}

// checkShell catches a shell inside that would be Carrel's own door.
func (d *decoder) checkShell(c *Config, shell, path string) {
	if slices.Contains(c.LoginShells, shell) {
		d.report(path, faultf(`write the shell of the image, as in "/bin/bash"`, "%q is the way into the container, not a shell inside", shell))
	}
}

// A table is a TOML table with the keys that somebody asked for.
type table struct {
	*decoder
	path   string // "" at the top level
	values map[string]any
	known  []string
}

func (t *table) at(key string) string {
	if t.path == "" {
		return key
	}
	return t.path + "." + key
}

func (t *table) has(key string) bool {
	_, ok := t.values[key]
	return ok
}

// take returns the value of key, and remembers that the key is known.
func (t *table) take(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.values[key]
	return v, ok
}

// mistyped reports that the value of key should have been something else.
func (t *table) mistyped(key, want string) {
	t.report(t.at(key), faultf("write "+want, "%q has the wrong type", key))
}

// value hands the value of key, if there is one, to set.
func value[T string | bool | int64](t *table, key string, set func(T) *fault) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	typed, ok := v.(T)
	if !ok {
		t.mistyped(key, map[any]string{"": `a string, as in "text"`, false: "true or false", int64(0): "a whole number"}[any(*new(T))])
		return
	}
	if bad := set(typed); bad != nil {
		bad.what = asciiQuoted(key) + ": " + bad.what
		t.report(t.at(key), bad)
	}
}

// list returns the strings of the array at key, and whether there was one.
func (t *table) list(key string, check func(string) *fault) ([]string, bool) {
	v, ok := t.take(key)
	if !ok {
		return nil, false
	}
	array, ok := v.([]any)
	if !ok {
		t.mistyped(key, `a list of strings, as in ["text"]`)
		return nil, false
	}
	list := make([]string, 0, len(array))
	for _, element := range array {
		s, ok := element.(string)
		if !ok {
			t.mistyped(key, `a list of strings, as in ["text"]`)
			continue
		}
		if bad := check(s); bad != nil {
			bad.what = key + ": " + bad.what
			t.report(t.at(key), bad)
		}
		list = append(list, s)
	}
	return list, true
}

// table returns the table at key, or nil.
func (t *table) table(key string) *table {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	values, ok := v.(map[string]any)
	if !ok {
		t.mistyped(key, fmt.Sprintf("a table, [%s]", key))
		return nil
	}
	return &table{decoder: t.decoder, path: t.at(key), values: values}
}

// tables returns the elements of the array of tables at key.
func (t *table) tables(key string) []*table {
	v, ok := t.take(key)
	if !ok {
		return nil
	}
	array, ok := v.([]map[string]any)
	if inline, isList := v.([]any); isList { // [{…}, {…}]
		ok = true
		for _, element := range inline {
			values, isTable := element.(map[string]any)
			ok = ok && isTable
			array = append(array, values)
		}
	}
	if !ok {
		t.mistyped(key, fmt.Sprintf("tables, [[%s]]", key))
		return nil
	}
	out := make([]*table, len(array))
	for i, values := range array {
		out[i] = &table{decoder: t.decoder, path: fmt.Sprintf("%s[%d]", t.at(key), i), values: values}
	}
	return out
}

// refuseSettings reports the settings of a rule that admits nobody.
func (t *table) refuseSettings() {
	for _, key := range []string{"image", "shell", "home", "linger", "motd", "last_login", "agent_forwarding", "limits", "idle", "self_service", "env"} {
		if t.has(key) {
			t.report(t.at(key), faultf("remove it, or remove allow = false", "%q has no effect in a rule that refuses", key))
		}
	}
}

// end reports the keys that nobody asked for.
func (t *table) end() {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(t.known, key) {
			continue
		}
		t.report(t.at(key), faultf("write one of "+strings.Join(slices.Sorted(slices.Values(t.known)), ", "), "unknown key %q", key))
	}
}
