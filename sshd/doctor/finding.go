package doctor

import (
	"slices"
	"strings"
)

// A Severity says how bad a finding is.
type Severity int

// The severities.
const (
	Notice   Severity = iota + 1 // good to know
	Warning                      // weakens a promise, or keeps users from logging in
	Critical                     // a user of Carrel runs something on the host, or reaches it
)

func (s Severity) String() string {
	switch s {
	case Notice:
		return "notice"
	case Warning:
		return "warning"
	case Critical:
		return "critical"
	}
	return "none"
}

// MarshalText makes a severity its name in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Finding is one thing that is wrong with the host.
type Finding struct {
	ID       string   `json:"id"` // stable, one of Kinds
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`              // what it lets happen, one sentence
	Accounts []string `json:"accounts,omitempty"` // whom it is about; none: the host
	Evidence []string `json:"evidence"`
	Remedy   []string `json:"remedy"` // commands, or comments and lines to paste
	Fix      bool     `json:"fix"`    // --fix applies a remedy
}

// A Kind is a kind of finding.
type Kind struct {
	ID    string   `json:"id"`
	Worst Severity `json:"worst"` // it may be less, by circumstances
	Title string   `json:"title"`
	Fix   bool     `json:"fix"`

	check func(f *Facts, say func(problem))
}

// A problem is what a check says about one account, or about the host.
// Problems of one kind and severity become one finding.
type problem struct {
	severity Severity // 0: the kind's worst
	account  string   // "": the host
	evidence string
	// remedy may contain USERS, which becomes all accounts of the finding with
	// commas between them.
	remedy []string
}

// Diagnose returns what is wrong, the worst first.
func Diagnose(f *Facts) []Finding {
	var all []Finding
	for _, kind := range Kinds() {
		bySeverity := map[Severity]*Finding{}
		kind.check(f, func(p problem) {
			if p.severity == 0 {
				p.severity = kind.Worst
			}
			found := bySeverity[p.severity]
			if found == nil {
				found = &Finding{ID: kind.ID, Severity: p.severity, Title: kind.Title, Fix: kind.Fix}
				bySeverity[p.severity] = found
			}
			found.add(p)
		})
		for _, severity := range []Severity{Critical, Warning, Notice} {
			if found := bySeverity[severity]; found != nil {
				found.finish()
				all = append(all, *found)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return int(b.Severity - a.Severity) })
	return all
}

// add joins a problem to the finding.
func (f *Finding) add(p problem) {
	if p.account != "" {
		f.Accounts = append(f.Accounts, p.account)
	}
	f.Evidence = append(f.Evidence, p.evidence)
	f.Remedy = append(f.Remedy, p.remedy...)
}

// finish removes what was said twice and names the accounts.
func (f *Finding) finish() {
	slices.Sort(f.Accounts)
	f.Accounts = slices.Compact(f.Accounts)
	f.Evidence = unique(f.Evidence)
	f.Remedy = unique(f.Remedy)
	for i, line := range f.Remedy {
		f.Remedy[i] = strings.ReplaceAll(line, "USERS", strings.Join(f.Accounts, ","))
	}
}

// unique returns the lines without those that stood before.
func unique(lines []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(lines, func(line string) bool {
		before := seen[line]
		seen[line] = true
		return before
	})
}

// Worst returns the severity of the worst finding, 0 for none.
func Worst(findings []Finding) Severity {
	var worst Severity
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	return worst
}
