#!/bin/sh
# Fills a folder with Debian's arm64 libraries that the cross build links: tools/arm64_sysroot.sh FOLDER. It keeps package lists and packages of its own in
# there, so neither root nor a second architecture of the system is needed. Writes FOLDER/paths.ini, the [constants] of cross/arm64.ini.
set -eu
mkdir -p "$1"
cd "$1"
folder=$(pwd)
[ ! -e paths.ini ] || exit 0
packages="libxxhash-dev libxxhash0 libjansson-dev libjansson4 libpcre2-dev libpcre2-8-0 libutf8proc-dev libutf8proc2 liburing-dev liburing2"
packages="$packages libedit-dev libedit2 libbsd0 libmd0 libtinfo6"
packages="$packages libmicrohttpd-dev libmicrohttpd12 libgnutls30 libp11-kit0 libidn2-0 libunistring2 libtasn1-6 libnettle8 libhogweed6 libgmp10 libffi8"
echo "fetching arm64 libraries into $1: $packages"
mkdir -p state/lists/partial cache/archives/partial packages
apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$folder/state" -o Dir::Cache="$folder/cache" \
        -o Dir::State::status=/dev/null -o Dir::Etc::SourceParts="$folder/sources" -o Dir::Etc::SourceList=/dev/null -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" "$@"
}
# Debian's own sources only: what else this system knows need not have arm64.
mkdir -p sources
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    [ ! -e "$file" ] || cp "$file" sources/
done
[ ! -e sources/sources.list ] || mv sources/sources.list sources/debian.list
apt update
(cd packages && apt download $packages)
for file in packages/*.deb; do dpkg-deb -x "$file" files; done
[ ! -d files/lib ] || cp -a files/lib/. files/usr/lib/ # one folder of libraries, as where /lib is a link
# What a library needs for itself is linked to it already, and pkg-config would ask for its headers.
sed -i '/^Requires.private:/d' files/usr/lib/aarch64-linux-gnu/pkgconfig/libmicrohttpd.pc
cat >paths.ini <<END
[constants]
sysroot = '$folder/files'
libraries = '$folder/files/usr/lib/aarch64-linux-gnu'
END
rm -rf state cache packages sources
