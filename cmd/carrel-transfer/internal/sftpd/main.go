package sftpd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// Exit statuses of OpenSSH's sftp-server.
const (
	exitUsage = 1
	exitFatal = 255
)

// maxRead is the most that one READ returns: OpenSSH's packet less a header.
const maxRead = maxPacket - 1024

// Main is sftp-server(8) on stdin and stdout. It changes the umask and the
// working directory of the process, and returns the exit status: 0 when the
// client has ended, 1 for a command line that is wrong, and 255 for a
// connection that is.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, errUsage), o.query != "" && o.query != "requests":
		fmt.Fprint(stderr, usage)
		return exitUsage
	case err != nil:
		fmt.Fprintf(stderr, "sftp-server: %v\n", err)
		return exitFatal
	case o.query != "":
		fmt.Fprintln(stdout, strings.Join(names(), "\n"))
		return 0
	}
	if o.hasMask {
		unix.Umask(o.mask)
	}
	if o.start != "" {
		if err := enter(o.start); err != nil {
			fmt.Fprintf(stderr, "sftp-server: %v\n", err) // and stay, as OpenSSH does
		}
	}
	if err := serve(o, stdin, stdout); err != nil {
		if o.logs {
			fmt.Fprintf(stderr, "sftp-server: %v\n", err)
		}
		return exitFatal
	}
	return 0
}

func enter(start string) error {
	u, err := user.Current()
	if err != nil {
		return err
	}
	directory, err := startDirectory(start, u.HomeDir, u.Username)
	if err != nil {
		return err
	}
	return os.Chdir(directory)
}

// serve answers until the client ends. Relative paths begin at the working
// directory of the process. The library could be told one, but would then make
// relative targets of symbolic links absolute.
func serve(o options, in io.Reader, out io.Writer) error {
	f := newFront(in, out)
	defer f.Close() // after an error the library goes on writing for a while
	f.permit, f.readOnly = o.permit, o.readOnly
	set := []sftp.ServerOption{sftp.WithMaxTxPacket(maxRead)}
	if o.readOnly {
		set = append(set, sftp.ReadOnly())
	}
	server, err := sftp.NewServer(f, set...)
	if err != nil {
		return err
	}
	return server.Serve()
}
