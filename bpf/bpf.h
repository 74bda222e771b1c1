// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// What a C program needs to be a BPF program: the kernel's functions it may call, and the marks that the loader reads.
//
// The kernel takes such a program only after its verifier has followed every path through it and found that it ends, that it
// reads and writes no memory but its own, and that it follows the kernel's pointers only by way of bpf_probe_read_kernel,
// which fails on a bad address instead of crashing (or, for pointers that the kernel handed over with their type, directly,
// which does the same). Hence everything is inlined, loops have constant bounds, and large buffers are in maps.

#ifndef BPF_H
#define BPF_H

#include "types.h"

#define NULL ((void *)0)

// SEC puts a function or variable in a section of the object file: its name tells the loader what it is.
#define SEC(name) __attribute__((section(name), used))

#define always_inline inline __attribute__((always_inline))

// In the definition of a map the loader reads numbers and types from the types of members.
#define map_uint(name, value) int(*name)[value]
#define map_type(name, type) typeof(type) *name

// The kinds of maps that are used, enum bpf_map_type in linux/bpf.h.
#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_PERCPU_ARRAY 6
#define BPF_MAP_TYPE_SK_STORAGE 24 // values that live and die with a socket
#define BPF_MAP_TYPE_RINGBUF 27    // messages to the program that reads them

#define BPF_F_NO_PREALLOC 1
#define BPF_LOCAL_STORAGE_GET_F_CREATE 1
#define BPF_RB_FORCE_WAKEUP 2

// The kernel's functions are called by number, enum bpf_func_id in linux/bpf.h; bpf-helpers(7) describes them.
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*const bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static void *(*const bpf_get_current_task)(void) = (void *)35;
static u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static void *(*const bpf_sk_storage_get)(void *map, void *sk, void *value, u64 flags) = (void *)107;
static long (*const bpf_probe_read_user)(void *to, u32 size, const void *from) = (void *)112;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*const bpf_probe_read_kernel_str)(void *to, u32 size, const void *from) = (void *)115;
static u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*const bpf_ringbuf_output)(void *ring, void *data, u64 size, u64 flags) = (void *)130;
static void *(*const bpf_get_current_task_btf)(void) = (void *)158;
static void *(*const bpf_task_pt_regs)(void *task) = (void *)175;

// read_kernel is pointer->member, safely: zero where the pointer is bad.
#define read_kernel(pointer, member)                                                            \
	({                                                                                      \
		typeof((pointer)->member) value_;                                               \
		bpf_probe_read_kernel(&value_, sizeof(value_), (const void *)&(pointer)->member);\
		value_;                                                                         \
	})

// has_member is whether the running kernel's struct has this member: a constant when the program is verified.
#define has_member(type, member) __builtin_preserve_field_info(((type *)0)->member, 2)

// member_offset is offsetof in the running kernel's struct.
#define member_offset(type, member) __builtin_preserve_field_info(((type *)0)->member, 0)

// kernel_size is sizeof of the running kernel's struct.
#define kernel_size(type) __builtin_preserve_type_info(*(type *)0, 1)

// enum_has and enum_value ask the running kernel for a constant of an enum.
#define enum_has(type, name) __builtin_preserve_enum_value(*(typeof(type) *)name, 0)
#define enum_value(type, name) __builtin_preserve_enum_value(*(typeof(type) *)name, 1)

// hide makes the compiler forget what it knows of a variable, lest it leave out a check that the verifier wants to see, or make it on
// a copy.
#define hide(variable) asm volatile("" : "+r"(variable))

// Some of the kernel's functions are for programs under the GPL only.
#define LICENSE char license_[] SEC("license") = "Dual BSD/GPL"

#endif
