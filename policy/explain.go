package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/carrel-sh/carrel/config"
)

// An Explanation says what Decide does with a request, and how it came to it.
type Explanation struct {
	Account  Account   `json:"account"`
	Decision *Decision `json:"decision,omitempty"` // nil when refused
	Refusal  *Refusal  `json:"refusal,omitempty"`  // nil when admitted
	Steps    []Step    `json:"steps"`              // the rules that were looked at, in order
}

// A Step is one rule that was looked at.
type Step struct {
	Rule    int    `json:"rule"` // index, from 0
	Line    int    `json:"line"` // in the configuration file
	Matched bool   `json:"matched"`
	Why     string `json:"why"`
}

// Explain decides as Decide does and keeps the steps.
func (p *Policy) Explain(req Request) Explanation {
	e := Explanation{Account: req.Account, Steps: []Step{}}
	d, refusal := p.decide(req.Account, func(i int, matched bool, why string) {
		e.Steps = append(e.Steps, Step{Rule: i, Line: p.rules[i].Line, Matched: matched, Why: why})
	})
	if refusal != nil {
		e.Refusal = refusal
		return e
	}
	e.Decision = &d
	return e
}

// String returns the explanation as lines of text for an administrator.
func (e Explanation) String() string {
	var b strings.Builder
	verdict := "admitted"
	if e.Refusal != nil {
		verdict = "refused"
	}
	fmt.Fprintf(&b, "%q (uid %d, gid %d, groups %s): %s\n", e.Account.Name, e.Account.UID, e.Account.GID, groupNames(e.Account.Groups), verdict)
	for _, s := range e.Steps {
		mark := "no "
		if s.Matched {
			mark = "yes"
		}
		fmt.Fprintf(&b, "  rule %d (line %d)  %s  %s\n", s.Rule+1, s.Line, mark, s.Why)
	}
	if e.Refusal != nil {
		fmt.Fprintf(&b, "  because  %s\n  told     %s\n", e.Refusal.Cause, e.Refusal.Message)
		return b.String()
	}
	if e.Decision.Rule == NoRule {
		fmt.Fprintf(&b, "  no rule matches; the shell %q admits\n", e.Account.Shell)
	}
	e.Decision.write(&b)
	return b.String()
}

// write adds what the account gets, one setting on each line.
func (d *Decision) write(b *strings.Builder) {
	enforce := config.EnforceStrict
	if d.BestEffort {
		enforce = config.EnforceBestEffort
	}
	linger, agent := config.LingerKeep, "no"
	if d.KillRest {
		linger = config.LingerKill
	}
	if d.Agent {
		agent = "forwarded"
	}
	quota := "none"
	if d.Limits.CPUQuotaMicros > 0 {
		quota = strconv.FormatInt(d.Limits.CPUQuotaMicros*100/config.CPUPeriodMicros, 10) + "%"
	}
	for _, line := range [][2]string{
		{"image", d.Image},
		{"shell", d.Shell},
		{"home", string(d.Home) + ", at " + d.HomePath},
		{"memory", config.FormatSize(d.Limits.MemoryBytes)},
		{"swap", config.FormatSize(d.Limits.SwapBytes)},
		{"cpu", fmt.Sprintf("weight %d, quota %s", d.Limits.CPUWeight, quota)},
		{"pids", strconv.FormatInt(d.Limits.Pids, 10)},
		{"linger", string(linger)},
		{"agent", agent},
		{"motd", cmp.Or(d.Motd, "none") + lastLogin(d.LastLogin)},
		{"idle", fmt.Sprintf("freeze %s, stop %s", config.FormatIdle(d.Idle.Freeze), config.FormatIdle(d.Idle.Stop))},
		{"self", selfCommands(d.SelfService)},
		{"enforce", string(enforce)},
	} {
		fmt.Fprintf(b, "  %-8s %s\n", line[0], line[1])
	}
	for _, entry := range d.Env {
		fmt.Fprintf(b, "  %-8s %s\n", "env", entry)
	}
}

func lastLogin(told bool) string {
	if told {
		return ", and the last login"
	}
	return ""
}

func selfCommands(list []config.SelfCommand) string {
	if len(list) == 0 {
		return "none"
	}
	words := make([]string, len(list))
	for i, c := range list {
		words[i] = string(c)
	}
	return strings.Join(words, " ")
}

// groupNames lists groups by name, or by number where there is none.
func groupNames(groups []Group) string {
	if len(groups) == 0 {
		return "none"
	}
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = strconv.Quote(g.Name)
		if g.Name == "" {
			names[i] = strconv.FormatUint(uint64(g.GID), 10)
		}
	}
	return strings.Join(slices.Compact(names), " ")
}
