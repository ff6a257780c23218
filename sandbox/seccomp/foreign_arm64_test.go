package seccomp

// int80 is of amd64; arm64 has no entry that 64-bit code could use.
func int80(uint32) (result int32, ok bool) { return 0, false }
