//go:build !failpoint

package failpoint

// Here is the place of that name.
func Here(string) {}
