#!/bin/bash
# Process 1 of the lab's namespaces: builds the private file system, runs the command, reaps orphans. Started by enter.
#
# It has to reap: libvirt waits 40 s for a failed QEMU that nobody reaped.
set -euo pipefail

cache=$1 run=$2
shift 2
PATH=$PATH:/usr/sbin:/sbin

tmpfs() { mkdir -p "$2"; mount -t tmpfs -o "mode=$1" lab "$2"; }

# libvirt believes in /dev/kvm as long as it can be opened, even where guests hang under it.
dev_without_kvm() {
    local new=/run/lab/dev node nodes=()
    tmpfs 755 $new
    mkdir $new/pts $new/shm $new/mqueue
    for node in /dev/*; do
        if [ "$node" != /dev/kvm ] && [[ -b $node || -c $node || -L $node ]]; then nodes+=("$node"); fi
    done
    cp -a "${nodes[@]}" $new/
    for node in pts shm mqueue; do
        if mountpoint -q /dev/$node; then mount --bind /dev/$node $new/$node; fi
    done
    # Mounts that lie hidden below others of the same name would confuse libvirt when it builds QEMU's own /dev.
    while mountpoint -q /dev; do umount --recursive --lazy /dev; done
    mount --move $new /dev
    rmdir $new
}

# A fresh /var/lib without /var/lib/vircpt, as on a machine that never ran vircpt; the rest is the machine's.
var_lib() {
    local old=/run/lab/var-lib entry name
    mkdir $old
    mount --bind /var/lib $old
    mount -t tmpfs -o mode=755 lab /var/lib
    for entry in "$old"/*; do
        name=${entry##*/}
        case $name in
            libvirt | vircpt) continue ;;
            swtpm-localca) mkdir "/var/lib/$name"; chown --reference="$entry" "/var/lib/$name"; continue ;;    # keys are made there
        esac
        if [ -d "$entry" ] && [ ! -L "$entry" ]; then
            mkdir "/var/lib/$name"
            mount --bind "$entry" "/var/lib/$name"
        else
            cp -a "$entry" "/var/lib/$name"
        fi
    done
    umount $old
    mkdir -p /var/lib/libvirt/{boot,qemu,images,lab}
    chown libvirt-qemu:libvirt-qemu /var/lib/libvirt/qemu
    chmod 711 /var/lib/libvirt/images
}

private_file_system() {
    tmpfs 755 /run
    mkdir -p /run/lab /run/libvirt /run/lock "/run/user/$(id -u)"
    mkdir -p "$run/images"
    var_lib
    mount --bind "$run/images" /var/lib/libvirt/images       # disks belong on a disk, not in memory
    chmod 711 /var/lib/libvirt/images
    mount --bind "$cache/cache/libvirt" /var/cache/libvirt   # what QEMU can do takes 8 s to find out: once is enough
    tmpfs 755 /var/log/libvirt
    mkdir /var/log/libvirt/qemu
    tmpfs 755 /var/log/swtpm
    if [ -d "$cache/assets" ]; then
        mount --bind "$cache/assets" /var/lib/libvirt/lab    # QEMU's user may not be able to reach the checkout
        mount -o remount,bind,ro /var/lib/libvirt/lab
    fi

    cp -a /etc/libvirt /run/lab/etc-libvirt
    rm -rf /run/lab/etc-libvirt/qemu/networks/autostart /run/lab/etc-libvirt/qemu/*.xml
    mount --bind /run/lab/etc-libvirt /etc/libvirt
    dev_without_kvm
}

hand_on() {
    signalled=yes
    kill "-$1" "$command" 2>/dev/null || true
}

private_file_system
ip link set lo up
export VIRCPT_LAB=1 VIRCPT_LAB_ASSETS=/var/lib/libvirt/lab XDG_RUNTIME_DIR=/run/user/$(id -u)
export LIBGUESTFS_PATH=$cache/assets/appliance LIBGUESTFS_BACKEND_SETTINGS=force_tcg
unset LIBVIRT_DEFAULT_URI VIRSH_DEFAULT_CONNECT_URI VIRCPT_DOMAIN

if [ -t 0 ]; then trap : INT; else trap 'hand_on INT' INT; fi
trap 'hand_on TERM' TERM

# bash lets a background command ignore SIGINT: undo that. Fd 9 is enter's lock, and none of the command's business.
(trap - INT QUIT TERM; exec "$@") <&0 9>&- &
command=$!

# Waiting for one child, bash reaps all. A trap cuts wait short, with a status that is not the child's.
while signalled='' status=0; do
    wait "$command" || status=$?
    [ -n "$signalled" ] || break
done
exit "$status"       # the kernel kills whatever else still runs in here
