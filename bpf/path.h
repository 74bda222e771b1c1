// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The path of a file, as the kernel knows it.

#ifndef PATH_H
#define PATH_H

#include "bpf.h"
#include "event.h"
#include "kernel.h"

// MAX_STEPS bounds the way up: elements of the path and mount points together. The verifier follows every step.
#define MAX_STEPS 128

static always_inline struct mount *mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - member_offset(struct mount, mnt);
}

// write_path walks from the file up to the root of its mount namespace and writes every name it meets to e->path: the way d_path
// goes in the kernel (fs/d_path.c), but from the end of the path to its begin, each name behind the one before. To write it in
// the order of reading would need a place that depends on all the names' lengths, and to prove to the verifier that it is within
// the buffer takes it more steps than it will do.
//
// On the way it notes where it meets the root directory of the process. What is above that only chroot(2) adds: it is for who
// looks for the file when the process is gone, and its root directory is not to be found by it any more.
static always_inline void write_path(struct event *e, struct path *file, struct task_struct *task)
{
	struct fs_struct *fs = read_kernel(task, fs);
	struct vfsmount *root_mnt = read_kernel(fs, root.mnt);
	struct dentry *root = read_kernel(fs, root.dentry);

	struct vfsmount *mnt = read_kernel(file, mnt);
	struct dentry *dentry = read_kernel(file, dentry);
	struct mount *mount = mount_of(mnt);
	// Kept in memory, where the verifier forgets what it knows of it: else it follows every step once for each number of names
	// that there can be before it.
	volatile u32 *length = &e->head.path_len;

	*length = 0;
	e->root_len = 0;
	e->head.flags = FLAG_TRUNCATED;
	for (int i = 0; i < MAX_STEPS; i++) {
		if (dentry == root && mnt == root_mnt) {
			e->root_len = *length;
			e->head.flags = 0;
		}
		struct dentry *parent = read_kernel(dentry, d_parent);
		if (dentry == read_kernel(mnt, mnt_root) || dentry == parent) {
			// The root of a filesystem: go on at the place where that is mounted.
			struct mount *below = read_kernel(mount, mnt_parent);
			if (below == mount) {
				e->head.flags = e->head.flags ? FLAG_OUTSIDE | FLAG_TOP : FLAG_TOP;
				break;
			}
			dentry = read_kernel(mount, mnt_mountpoint);
			mount = below;
			mnt = &mount->mnt;
			continue;
		}
		u64 begin = *length;
		if (begin >= PATH_SIZE)
			break;
		long n = bpf_probe_read_kernel_str(&e->path[begin], NAME_SIZE, read_kernel(dentry, d_name.name));
		if (n <= 0)
			break;
		*length = begin + n;
		dentry = parent;
	}
}

#endif
