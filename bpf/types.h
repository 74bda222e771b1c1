// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The integer types of the kernel. A BPF program has no C library.

#ifndef TYPES_H
#define TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#endif
