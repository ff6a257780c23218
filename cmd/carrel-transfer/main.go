// Carrel-transfer is the remote end of scp, sftp and sshfs for images that
// have no program for it. It is bound read-only into every container, runs
// there as the user, and goes by the name that it is called by. See
// carrel-transfer(8).
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/cmd/carrel-transfer/internal/scp"
	"github.com/carrel-sh/carrel/cmd/carrel-transfer/internal/sftpd"
	"github.com/carrel-sh/carrel/session/ask"
)

const usage = `usage: sftp-server [options]
       scp -t|-f [-dpqrv] [--] path ...
       carrel status|sessions|reset [--yes]

carrel-transfer is the remote end of sftp and scp, and runs under those names.
See carrel-transfer(8).
`

func main() {
	// A client that is gone is an error of write(2), and a status of ours.
	signal.Ignore(unix.SIGPIPE)
	name := ""
	if len(os.Args) > 0 {
		name = filepath.Base(os.Args[0])
	}
	switch name {
	case "sftp-server":
		os.Exit(sftpd.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	case "carrel":
		os.Exit(own(os.Args[1:]))
	case "scp":
		os.Exit(scp.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	fmt.Fprint(os.Stderr, usage)
	os.Exit(64) // EX_USAGE, as carrelsh(1)
}

// own asks about the container, as carrel(1) of the image "host" does.
func own(args []string) int {
	text, status, err := ask.Own(strings.Join(append([]string{"carrel"}, args...), " "))
	if err != nil {
		fmt.Fprintln(os.Stderr, "carrel:", err)
		return 69 // EX_UNAVAILABLE
	}
	fmt.Print(text)
	return status
}
