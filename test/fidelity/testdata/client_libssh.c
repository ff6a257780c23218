/* An SSH client on libssh: port user key tty|pipe command; or sftp "local remote back". */
#include <fcntl.h>
#include <libssh/libssh.h>
#include <libssh/sftp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static ssh_session session;

static void check(int bad, const char *what)
{
	if (!bad)
		return;
	fprintf(stderr, "client: %s: %s\n", what, ssh_get_error(session));
	exit(254);
}

static int move(ssh_channel channel, int is_stderr, int fd)
{
	char buf[16384];
	int n = ssh_channel_read_nonblocking(channel, buf, sizeof buf, is_stderr);
	for (int at = 0; at < n;) {
		ssize_t w = write(fd, buf + at, n - at);
		if (w < 0)
			exit(254);
		at += w;
	}
	return n;
}

/* copy sends a file there and back, and removes it there. */
static int copy(char *names)
{
	char buf[16384], *local = strtok(names, " "), *remote = strtok(NULL, " "), *back = strtok(NULL, " ");
	sftp_session sftp = sftp_new(session);
	check(sftp == NULL || sftp_init(sftp) != SSH_OK, "sftp");
	FILE *from = fopen(local, "r"), *to = fopen(back, "w");
	sftp_file file = sftp_open(sftp, remote, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	check(!from || !to || !file, "open");
	size_t n;
	ssize_t got;
	while ((n = fread(buf, 1, sizeof buf, from)) > 0)
		check(sftp_write(file, buf, n) != (ssize_t)n, "write");
	check(sftp_close(file) != SSH_NO_ERROR, "close");
	check((file = sftp_open(sftp, remote, O_RDONLY, 0)) == NULL, "open again");
	while ((got = sftp_read(file, buf, sizeof buf)) > 0)
		check(fwrite(buf, 1, got, to) != (size_t)got, "write");
	check(got < 0 || fclose(to) != 0 || sftp_close(file) != SSH_NO_ERROR || sftp_unlink(sftp, remote) != 0, "end");
	sftp_free(sftp);
	ssh_disconnect(session);
	return 0;
}

int main(int argc, char **argv)
{
	ssh_key key;
	char buf[16384];
	int port = atoi(argv[1]), feeding = 1;
	(void)argc;
	check((session = ssh_new()) == NULL, "new");
	ssh_options_set(session, SSH_OPTIONS_HOST, "127.0.0.1");
	ssh_options_set(session, SSH_OPTIONS_PORT, &port);
	ssh_options_set(session, SSH_OPTIONS_USER, argv[2]);
	check(ssh_connect(session) != SSH_OK, "connect");
	check(ssh_pki_import_privkey_file(argv[3], NULL, NULL, NULL, &key) != SSH_OK, "key");
	check(ssh_userauth_publickey(session, NULL, key) != SSH_AUTH_SUCCESS, "authenticate");
	if (strcmp(argv[4], "sftp") == 0)
		return copy(argv[5]);
	ssh_channel channel = ssh_channel_new(session);
	check(channel == NULL || ssh_channel_open_session(channel) != SSH_OK, "open");
	if (strcmp(argv[4], "tty") == 0) {
		struct winsize size = { 24, 80, 0, 0 };
		ioctl(0, TIOCGWINSZ, &size);
		check(ssh_channel_request_pty_size(channel, getenv("TERM"), size.ws_col, size.ws_row) != SSH_OK, "pty");
	}
	check(ssh_channel_request_exec(channel, argv[5]) != SSH_OK, "exec");
	for (;;) {
		struct pollfd fds[2] = { { ssh_get_fd(session), POLLIN, 0 }, { feeding ? 0 : -1, POLLIN, 0 } };
		int got = 0, n;
		while ((n = move(channel, 0, 1)) > 0 || (n = move(channel, 1, 2)) > 0)
			got = 1;
		if (!got && ssh_channel_is_eof(channel))
			break;
		poll(fds, 2, 20);
		if (fds[1].revents) {
			ssize_t r = read(0, buf, sizeof buf);
			if (r <= 0) {
				feeding = 0;
				ssh_channel_send_eof(channel);
			} else {
				check(ssh_channel_write(channel, buf, r) != r, "write");
			}
		}
	}
	int status = ssh_channel_get_exit_status(channel);
	ssh_disconnect(session);
	return status < 0 ? 255 : status; /* -1 is a signal */
}
