// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Unbalances the writer count of a mount, on demand, so that tests know who did it.
 *
 * A line "COMMAND N PATH" written to /sys/kernel/debug/nstrace_writers does COMMAND N times
 * to the mount that PATH is on (/proc/self/fd/7 is one, too). The write fails with what the
 * kernel said of it. Each command has functions of its own, and is reached through others, so
 * that its stack has depth; `barrier` keeps calls from becoming jumps, which leave no frame.
 *
 *   take     takes write access and keeps it                  +N  nswtest_leak_take
 *   drop     gives back what was never taken                  -N  nswtest_extra_drop
 *   pair     takes it and gives it back, in one function       0  nswtest_pair
 *   split    takes it in one function, gives back in another   0  nswtest_begin, nswtest_end
 *   forget   pairs, but the last returns early                +1  nswtest_forget
 *   deep     takes it at the end of a long recursion          +N  nswtest_deep_take
 *   takefile, dropfile, pairfile: the same by mnt_want_write_file and mnt_drop_write_file
 *
 * Only the mount's count is wrong afterwards: what mnt_want_write and mnt_drop_write also do
 * to the superblock (protection from freezing) is made good, or a freeze would never end.
 */

#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define NSWTEST_LINE_MAX 4096
#define NSWTEST_TIMES_MAX 1000000
/* More than BPF keeps of a stack (127), and little enough for 16 KiB. */
#define NSWTEST_DEPTH 150

static struct dentry *nswtest_dentry;

static noinline int nswtest_leak_take(struct vfsmount *mnt)
{
	int err = mnt_want_write(mnt);

	if (!err)
		sb_end_write(mnt->mnt_sb);
	barrier();
	return err;
}

static noinline int nswtest_extra_drop(struct vfsmount *mnt)
{
	sb_start_write(mnt->mnt_sb);
	mnt_drop_write(mnt);
	barrier();
	return 0;
}

static noinline int nswtest_pair(struct vfsmount *mnt)
{
	int err = mnt_want_write(mnt);

	if (!err)
		mnt_drop_write(mnt);
	barrier();
	return err;
}

static noinline int nswtest_begin(struct vfsmount *mnt)
{
	int err = mnt_want_write(mnt);

	barrier();
	return err;
}

static noinline void nswtest_end(struct vfsmount *mnt)
{
	mnt_drop_write(mnt);
	barrier();
}

static noinline int nswtest_split(struct vfsmount *mnt)
{
	int err = nswtest_begin(mnt);

	if (!err)
		nswtest_end(mnt);
	barrier();
	return err;
}

/* The usual bug: an error path that forgets to give back. */
static noinline int nswtest_forget(struct vfsmount *mnt, bool is_last)
{
	int err = mnt_want_write(mnt);

	if (err)
		return err;
	if (is_last) {
		sb_end_write(mnt->mnt_sb);
		return 0;
	}
	mnt_drop_write(mnt);
	barrier();
	return 0;
}

static noinline int nswtest_deep_take(struct vfsmount *mnt)
{
	int err = nswtest_leak_take(mnt);

	barrier();
	return err;
}

static noinline int nswtest_descend(struct vfsmount *mnt, unsigned int depth)
{
	int err = depth ? nswtest_descend(mnt, depth - 1) : nswtest_deep_take(mnt);

	barrier();
	return err;
}

static noinline int nswtest_leak_take_file(struct file *file)
{
	int err = mnt_want_write_file(file);

	if (!err)
		sb_end_write(file_inode(file)->i_sb);
	barrier();
	return err;
}

static noinline int nswtest_extra_drop_file(struct file *file)
{
	sb_start_write(file_inode(file)->i_sb);
	mnt_drop_write_file(file);
	barrier();
	return 0;
}

static noinline int nswtest_pair_file(struct file *file)
{
	int err = mnt_want_write_file(file);

	if (!err)
		mnt_drop_write_file(file);
	barrier();
	return err;
}

static noinline int nswtest_once(const char *command, struct vfsmount *mnt, bool is_last)
{
	int err = -EINVAL;

	if (!strcmp(command, "take"))
		err = nswtest_leak_take(mnt);
	else if (!strcmp(command, "drop"))
		err = nswtest_extra_drop(mnt);
	else if (!strcmp(command, "pair"))
		err = nswtest_pair(mnt);
	else if (!strcmp(command, "split"))
		err = nswtest_split(mnt);
	else if (!strcmp(command, "forget"))
		err = nswtest_forget(mnt, is_last);
	else if (!strcmp(command, "deep"))
		err = nswtest_descend(mnt, NSWTEST_DEPTH);
	barrier();
	return err;
}

static noinline int nswtest_once_file(const char *command, struct file *file)
{
	int err = -EINVAL;

	if (!strcmp(command, "takefile"))
		err = nswtest_leak_take_file(file);
	else if (!strcmp(command, "dropfile"))
		err = nswtest_extra_drop_file(file);
	else if (!strcmp(command, "pairfile"))
		err = nswtest_pair_file(file);
	barrier();
	return err;
}

static noinline int nswtest_on_mount(const char *command, unsigned int times, const char *name)
{
	struct path path;
	int err = kern_path(name, LOOKUP_FOLLOW, &path);

	if (err)
		return err;
	while (!err && times--) {
		err = nswtest_once(command, path.mnt, !times);
		cond_resched();
	}
	path_put(&path);
	return err;
}

static noinline int nswtest_on_file(const char *command, unsigned int times, const char *name)
{
	struct file *file = filp_open(name, O_RDONLY, 0);
	int err = 0;

	if (IS_ERR(file))
		return PTR_ERR(file);
	while (!err && times--) {
		err = nswtest_once_file(command, file);
		cond_resched();
	}
	filp_close(file, NULL);
	return err;
}

static noinline int nswtest_command(char *line)
{
	char *command = strsep(&line, " ");
	char *number = strsep(&line, " ");
	unsigned int times;

	if (!line || kstrtouint(number, 10, &times) || times > NSWTEST_TIMES_MAX)
		return -EINVAL;
	if (strstr(command, "file"))
		return nswtest_on_file(command, times, line);
	return nswtest_on_mount(command, times, line);
}

static ssize_t nswtest_write(struct file *file, const char __user *from, size_t len, loff_t *at)
{
	char *line;
	int err;

	if (len > NSWTEST_LINE_MAX)
		return -E2BIG;
	line = memdup_user_nul(from, len);
	if (IS_ERR(line))
		return PTR_ERR(line);
	strreplace(line, '\n', '\0');
	err = nswtest_command(line);
	kfree(line);
	return err ? err : len;
}

static const struct file_operations nswtest_operations = {
	.owner = THIS_MODULE,
	.write = nswtest_write,
};

static int __init nswtest_init(void)
{
	nswtest_dentry = debugfs_create_file("nstrace_writers", 0200, NULL, NULL,
					     &nswtest_operations);
	return PTR_ERR_OR_ZERO(nswtest_dentry);
}

static void __exit nswtest_exit(void)
{
	debugfs_remove(nswtest_dentry);
}

module_init(nswtest_init);
module_exit(nswtest_exit);

MODULE_DESCRIPTION("Unbalances the writer count of a mount, for tests of nstrace");
MODULE_LICENSE("Dual MIT/GPL");
