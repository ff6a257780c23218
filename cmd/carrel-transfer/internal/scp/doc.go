// Package scp is the two remote halves of the old scp protocol, that of BSD's
// rcp: the sink that a client sends to (scp -t), and the source that it fetches
// from (scp -f). There is no standard; OpenSSH's scp.c is what clients expect.
//
// The side that sends speaks in records, lines of text. The other one answers
// each with one byte: 0 is yes, 1 is no and why, up to a newline, 2 is the end
// and why.
//
//	source                                   sink
//	                                    ◀── \0             ready
//	T<mtime> 0 <atime> 0\n              ──▶                times of what comes next, with -p
//	                                    ◀── \0
//	D0755 0 <name>\n                    ──▶                down into a directory, with -r
//	                                    ◀── \0
//	C0644 <size> <name>\n               ──▶                a file
//	                                    ◀── \0
//	<size bytes> \0                     ──▶                or \1<why>\n if it could not be read
//	                                    ◀── \0             or \1<why>\n if it could not be written
//	E\n                                 ──▶                up again
//	                                    ◀── \0
//
// What a stranger controls here is every byte of the records that the sink
// reads. A name is one component or it is refused, so nothing is made but below
// the target (CVE-2018-20685, CVE-2019-6111); lines and sizes are bounded; what
// is kept in memory does not grow with files. Both halves have the rights of
// the user that they run as, no others. What is not protected: symbolic links
// that are below the target already are followed, as OpenSSH does.
package scp
