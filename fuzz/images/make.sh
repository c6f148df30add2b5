#!/usr/bin/env bash
# Makes the images that the targets `disk` and `journal` change, from e2fsprogs, into this directory. What is committed is what
# findings refer to: an image made anew invalidates them, so only a new shape of file system is a reason to run this.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin:/sbin
export MKE2FS_CONFIG=/dev/null DEBUGFS_PAGER=cat
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

tree=$dir/tree
mkdir -p "$tree"/workspace/a/b "$tree"/.pyro/upper/{workspace,etc,moved} "$tree"/etc
for n in 1 2 3 4 5 6 7 8; do
    head -c $((n * 300)) /dev/zero | tr '\0' x >"$tree/workspace/a/a file $n"
done
echo base >"$tree/etc/motd"
for n in $(seq 0 24); do
    printf 'piece %02d' "$n" | dd of="$tree/workspace/pieces" bs=1024 seek=$((n * 3)) conv=notrunc status=none
done
ln -s a/b/../b "$tree/workspace/link"
ln -s "$(printf 'long/%.0s' $(seq 50))" "$tree/workspace/long"
ln "$tree/etc/motd" "$tree/etc/same"
head -c 2048 /dev/zero | tr '\0' n >"$dir/new"
head -c 9000 /dev/zero | tr '\0' v >"$dir/big"
printf '\xc0\x3b\x39\x98 looks like a block of the journal' >"$dir/disguised"
truncate -s 1024 "$dir/disguised"

# make NAME SIZE JOURNAL-OPEN-COMMAND OPTION...
make() {
    local name=$1 size=$2 open=$3 image=$dir/$1 blocks list
    shift 3
    mke2fs -q -F -t ext4 -m 0 -N 64 -U 12345678-1234-1234-1234-123456789abc -d "$tree" "$@" "$image" "$size" 2>/dev/null >&2
    {
        echo "cd .pyro/upper"
        echo "mknod gone c 0 0"
        echo "ea_set etc trusted.overlay.redirect /workspace/a"
        echo "ea_set moved trusted.overlay.redirect etc"
        echo "ea_set etc trusted.overlay.opaque n"
        echo "ea_set workspace user.x $(head -c 300 /dev/zero | tr '\0' x)"
        echo "write $dir/new orphan"
        echo "write $dir/new stays"
        case $name in values) echo "ea_set -f $dir/big workspace user.big" ;; esac
    } | debugfs -w -f - "$image" >/dev/null 2>&1
    number() { debugfs -R "stat $1" "$image" 2>/dev/null | sed -n 's/^Inode: \([0-9]*\).*/\1/p'; }
    first=$(number /.pyro/upper/orphan)
    second=$(number /.pyro/upper/stays)
    {
        echo "set_inode_field /.pyro/upper/orphan links_count 0"
        echo "set_inode_field /.pyro/upper/orphan dtime $second"
        echo "set_inode_field /.pyro/upper/stays size 100"
        echo "unlink /.pyro/upper/orphan"
        echo "ssv last_orphan $first"
    } | debugfs -w -f - "$image" >/dev/null 2>&1
    if [ -n "$open" ]; then
        list=$(debugfs -R "blocks /workspace/pieces" "$image" 2>/dev/null | tr ' ' '\n' | grep . | head -8)
        blocks=$(echo "$list" | head -2 | paste -sd,)
        {
            echo "$open"
            echo "jw -b $blocks $dir/new"
            echo "jw -b $(echo "$list" | sed -n 3p) $dir/disguised"
            echo "jw -r $(echo "$list" | sed -n 1p),5,6"
            echo "jw -b $(echo "$list" | sed -n '5,6p' | paste -sd,) $dir/new"
            echo "jw -b $(echo "$list" | sed -n '7,8p' | paste -sd,) -c $dir/new"
            echo "jc"
        } | debugfs -w -f - "$image" >/dev/null 2>&1
    fi
    gzip -9 -n -c "$image" >"$name.gz"
}

# As our own disks: extents, checksums, a journal with 64-bit tags of version 3.
make modern 2100K "jo -c -v 3" -b 1024 -I 256 -J size=1 -O none,has_journal,ext_attr,dir_index,filetype,extent,64bit,metadata_csum,extra_isize,large_file
# Block numbers of 32 bits, checksums of version 2.
make narrow 2100K "jo -c -v 2" -b 1024 -I 128 -J size=1 -O none,has_journal,ext_attr,filetype,extent,metadata_csum
# Block maps, no checksums: ext3.
make mapped 2100K "jo" -b 1024 -I 128 -J size=1 -O none,has_journal,ext_attr,dir_index,filetype
# Content in inodes, group descriptors apart.
make inline 512K "" -b 1024 -I 512 -g 256 -O none,extent,ext_attr,filetype,inline_data,meta_bg,extra_isize,sparse_super
# Values in inodes of their own, blocks of 4 KiB.
make values 1M "" -b 4096 -I 256 -O none,extent,ext_attr,filetype,ea_inode,extra_isize,64bit,metadata_csum,metadata_csum_seed
