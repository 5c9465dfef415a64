# two-nodes.sh ROOT BUILD: a Linux kernel with two memory nodes, emulated, runs the tests of the CPU device, and a plan whose
# weights lie where --numa says. MOE_KERNEL names the kernel, where /boot has none.
set -euo pipefail
cd "$1"
build=$2
skip() {
  echo "skipped: $1"
  exit 77
}
[ "$(uname -m)" = x86_64 ] || skip "the machine that is emulated has an x86-64 processor, this one has not"
for tool in qemu-system-x86_64 busybox; do
  command -v $tool >/dev/null || skip "there is no $tool (Debian: qemu-system-x86, busybox-static)"
done
kernel=${MOE_KERNEL:-$(find /boot -name 'vmlinuz-*' | sort -V | tail -1)}
[ -r "$kernel" ] || skip "there is no kernel to boot (Debian: linux-image-amd64); MOE_KERNEL names one"

root=$build/two-nodes
rm -rf "$root"
mkdir -p "$root"/{bin,dev,proc,sys,tmp}
"$build/bin/moec" compile models/cria -o "$root/plan" --weights int4 --target cpu:x86-64-v3
cp "$(command -v busybox)" "$build/bin/moe-run" "$build/unittests/MoeDeviceTest" "$root/bin"
for library in $(ldd "$root"/bin/moe-run "$root"/bin/MoeDeviceTest | sed -n 's/^[^/]*\(\/[^ ]*\) (0x.*/\1/p' | grep -v : | sort -u); do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done

cat >"$root/init" <<'END'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
MoeDeviceTest --gtest_brief=1 --gtest_filter='*Cpu*:Memory*:Nodes*:Numbers*:WeightPlacement*:Processors*:ThreadPool*:FeatureProbe*'
echo "tests: $?"
for numa in auto off interleave replicate; do
  moe-run /plan -p "In the beginning" -n 12 --numa $numa >/tmp/text 2>/tmp/errors
  echo "$numa text: $(cat /tmp/text | tr '\n' ' ')"
  echo "$numa ran: $(tail -1 /tmp/errors)"
done
mkfifo /tmp/turns
for numa in interleave replicate; do
  moe-run bench /plan --serve --numa $numa </tmp/turns >/tmp/answers 2>/dev/null &
  exec 3>/tmp/turns
  until [ -s /tmp/answers ]; do sleep 1; done
  grep -E ' (interleave|prefer).* dirty=' /proc/$!/numa_maps | sed "s/^/$numa pages: /"
  grep -h Cpus_allowed_list /proc/$!/task/*/status | sed "s/^/$numa threads: /"
  exec 3>&-
  wait
done
poweroff -f
END
chmod +x "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) | gzip -1 >"$build/two-nodes.cpio.gz"
echo "booting $kernel"
timeout 900 qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max -m 3G -smp 4,sockets=2,cores=2 \
  -object memory-backend-ram,id=first,size=1536M -numa node,nodeid=0,cpus=0-1,memdev=first \
  -object memory-backend-ram,id=second,size=1536M -numa node,nodeid=1,cpus=2-3,memdev=second \
  -kernel "$kernel" -initrd "$build/two-nodes.cpio.gz" -append "console=ttyS0 quiet panic=-1" \
  -nographic -no-reboot -nic none -vga none </dev/null | tr -d '\r' | tee "$root/log"

expect() { # PATTERN: an extended regular expression
  grep -qE "$1" "$root/log" || { echo "error: no line of the log above matches '$1'"; exit 1; }
}
expect '^tests: 0$'
expect '^auto ran: .*, 4 threads, weights replicated on 2 nodes$'
expect '^off ran: .*, 4 threads$'
expect '^interleave ran: .*, 4 threads, weights interleaved over 2 nodes$'
expect '^replicate ran: .*, 4 threads, weights replicated on 2 nodes$'
texts=$(sed -n 's/^[a-z]* text: //p' "$root/log" | sort | uniq -c | wc -l)
[ "$texts" = 1 ] || { echo "error: the texts differ"; exit 1; }
# Pages on both nodes, and those of each copy on its own alone; threads that stay on a node, and the first one, which does not.
expect '^interleave pages: .* N0=[0-9]+ N1=[0-9]+ '
expect '^replicate pages: .* prefer:0 .* dirty=[0-9]+( active=[0-9]+)? N0=[0-9]+ kernel'
expect '^replicate pages: .* prefer:1 .* dirty=[0-9]+( active=[0-9]+)? N1=[0-9]+ kernel'
expect '^replicate threads: .*0-3$'
expect '^replicate threads: .*0-1$'
expect '^replicate threads: .*2-3$'
