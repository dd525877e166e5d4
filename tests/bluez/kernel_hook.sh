#!/bin/sh
# Run by mmdebstrap with the new root as $1: puts vmlinuz and the modules that the guest loads into
# $1/kernel. The kernel is unpacked, not installed: nothing in the guest boots from a disk.
set -eu
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
work="$1/kernel"
mkdir -p "$work/deb" "$work/all" "$work/lib/modules"

# The generic kernel: the one for clouds has no Bluetooth.
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$package" ] || { echo "E: linux-image-amd64 names no kernel package" >&2; exit 1; }
(cd "$work/deb" && apt-get --quiet download "$package")
dpkg-deb -x "$work"/deb/*.deb "$work/all"
[ -e "$work/all/lib" ] || ln -s usr/lib "$work/all/lib"
version=$(ls "$work/all/lib/modules")
mv "$work/all/boot/vmlinuz-$version" "$work/vmlinuz"

chroot "$1" depmod -b /kernel/all "$version"
for module in $DKEY_VM_MODULES; do
  chroot "$1" modprobe -d /kernel/all -S "$version" --show-depends "$module"
done | sed -n 's/^insmod \/kernel\/all\/*\([^ ]*\).*/\1/p' | sort -u | while read -r file; do
  mkdir -p "$work/$(dirname "$file")"
  mv "$work/all/$file" "$work/$file"
done
for list in builtin order builtin.modinfo; do
  mv "$work/all/lib/modules/$version/modules.$list" "$work/lib/modules/$version/"
done
chroot "$1" depmod -b /kernel "$version"
rm -rf "$work/deb" "$work/all"
