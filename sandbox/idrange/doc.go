// Package idrange gives each user a range of 65,536 host ids of their own, once
// and for ever, and makes the id maps of their container from it.
//
// Life cycle: carreld opens the table once (Open takes a lock that lasts until
// Close), checks the region against the host's accounts (Check) at each start,
// asks Assign at each cold login, and hands the Map to the runtime.
//
// A range is never reused: files with its ids may exist in an upper layer, in
// a backup, in an image that was committed. So an entry is never deleted. The
// key is uid and name together: when a uid appears under another name, another
// person stands behind it, and the range of the first one is retired.
//
// # On disk
//
// One JSON file, its version only goes up:
//
//	{ "version": 1,
//	  "table":  { "first": 1879048192,
//	              "entries": [ {"uid": 1000, "name": "alice", "first": 1879113728},
//	                           {"uid": 1001, "name": "bob", "first": 1879179264, "retired": true} ] },
//	  "sha256": "…of the table, compacted" }
//
// Beside it lies a lock file that also remembers that a table was once made. A
// table that is damaged, or lost while the lock file knows of it, is an error
// for the administrator: starting from an empty one would hand out ids that
// own files already. It is replaced as a whole: write a temporary file, fsync,
// rename, fsync the directory; Assign returns only after the last step.
//
// # What an attacker controls here
//
// A user controls at most their own name and uid, through whatever makes
// accounts. Names that JSON cannot hold unchanged are refused, so that no two
// become one. Not protected: a uid that only a directory service (LDAP) knows
// and that lies in the region; Check reads files, Assign refuses the uid itself.
package idrange
