package policy

import (
	"fmt"
	"strings"

	"github.com/carrel-sh/carrel/config"
)

// A Code names the reason of a refusal, for logs and for callers that branch.
type Code string

// The reasons of a refusal.
const (
	CodeRoot       Code = "root"        // uid 0
	CodeNobody     Code = "nobody"      // uid 65534
	CodeReservedID Code = "reserved-id" // an id that means "none"
	CodeManagedID  Code = "managed-id"  // an id of Carrel's own region
	CodeName       Code = "name"        // a name that is not one
	CodeGroup      Code = "group"       // a group like the ids above
	CodeHome       Code = "home"        // the host's home is wanted and unusable
	CodeRule       Code = "rule"        // a rule with allow = false
	CodeShell      Code = "shell"       // no rule, and the shell is not carrelsh
)

// A Refusal says why an account may not log in.
type Refusal struct {
	Code    Code   `json:"code"`
	Rule    int    `json:"rule"`    // index of the rule that refused; NoRule: none did
	Message string `json:"message"` // one plain sentence for the user's terminal
	Cause   string `json:"cause"`   // for the administrator's log; foreign strings are quoted
}

// Error returns the cause.
func (r *Refusal) Error() string { return r.Cause }

// What users read. It names nothing of the host's that they do not know.
var messages = map[Code]string{
	CodeRoot:       "root has no session of its own here; an administrator can use \"carrel enter USER\".",
	CodeNobody:     "This account is shared by programs and has no session.",
	CodeReservedID: "This account has no valid user number. Please tell the administrator.",
	CodeManagedID:  "This user number is set aside for containers. Please tell the administrator.",
	CodeName:       "The name of this account is not usable here. Please tell the administrator.",
	CodeGroup:      "A group of this account is not usable here. Please tell the administrator.",
	CodeHome:       "The home directory of this account is not usable here. Please tell the administrator.",
	CodeRule:       "This account may not log in here. Please ask the administrator.",
	CodeShell:      "This account is not set up for sessions here. Please ask the administrator.",
}

func newRefusal(a Account, code Code, format string, args ...any) *Refusal {
	return &Refusal{
		Code:    code,
		Rule:    NoRule,
		Message: messages[code],
		Cause:   fmt.Sprintf("refuse %q (uid %d): ", a.Name, a.UID) + fmt.Sprintf(format, args...),
	}
}

func refuseByRule(a Account, index int, r *config.Rule) *Refusal {
	refusal := newRefusal(a, CodeRule, "rule %d in line %d says so", index+1, r.Line)
	refusal.Rule = index
	if r.Message != "" {
		refusal.Message = r.Message
	}
	return refusal
}

func refuseShell(a Account, shells []string) *Refusal {
	return newRefusal(a, CodeShell, "no rule names the account and its shell %q is not %s", a.Shell, strings.Join(shells, " or "))
}

func refuseHome(a Account, cause string) *Refusal {
	return newRefusal(a, CodeHome, "home = \"host\" and the directory %q %s", a.Home, cause)
}
