/*
 * A function for GNU make: $(become PROGRAM[,ARGUMENT]) replaces make by the
 * program, as exec does in a shell. make itself knows the exit statuses 0, 1
 * and 2 only, whatever a recipe says, and `make demo CMD=...` is to end with
 * the command's own. See "Loading Dynamic Objects" in make's manual.
 */
#include <gnumake.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

int plugin_is_GPL_compatible;

static char *become(const char *name, unsigned int argc, char **argv)
{
	/* make raised its own stack limit and would lower it for a recipe. */
	struct rlimit stack;
	(void)argc;
	if (getrlimit(RLIMIT_STACK, &stack) == 0 && stack.rlim_cur > (8UL << 20)) {
		stack.rlim_cur = 8UL << 20;
		setrlimit(RLIMIT_STACK, &stack);
	}
	fflush(NULL);
	execv(argv[0], argv);
	perror(name);
	return NULL;
}

int become_gmk_setup(void)
{
	gmk_add_function("become", become, 1, 2, GMK_FUNC_DEFAULT);
	return 1;
}
