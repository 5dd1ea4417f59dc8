#!/bin/sh
# A host with two GPUs as trees of files, what a container lacks, and what older instructions and an operator left. One run instead of fifty tasks.
# usage: host.sh docker|podman
set -e
gpus=/opt/gpu
kernel=6.1.0-42-amd64
mkdir -p $gpus/sys/bus/pci/drivers/nvidia $gpus/proc/driver/nvidia $gpus/proc/sys/kernel $gpus/root/boot $gpus/root/lib/modules/$kernel /etc/nvidia-standin
minor=0
for address in 0000:19:00.0 0000:3b:00.0; do
    device=$gpus/sys/bus/pci/devices/$address
    mkdir -p $device $gpus/proc/driver/nvidia/gpus/$address
    echo 0x10de >$device/vendor
    echo 0x2330 >$device/device
    echo 0x030200 >$device/class
    ln -sfn $gpus/sys/bus/pci/drivers/nvidia $device/driver
    printf 'Model:\t\t NVIDIA H100 80GB HBM3\nGPU UUID:\t GPU-0000000%s-aaaa-bbbb-cccc-00000000000%s\nBus Location:\t %s\nDevice Minor:\t %s\n' \
        $minor $minor $address $minor >$gpus/proc/driver/nvidia/gpus/$address/information
    [ -e /dev/nvidia$minor ] || mknod -m 0666 /dev/nvidia$minor c 195 $minor
    minor=$((minor + 1))
done
[ -e /dev/nvidiactl ] || mknod -m 0666 /dev/nvidiactl c 195 255
echo 'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build' >$gpus/proc/driver/nvidia/version
echo $kernel >$gpus/proc/sys/kernel/osrelease
echo 580.95.05 >$gpus/root/lib/modules/$kernel/nvidia.version
: >$gpus/root/boot/vmlinuz-$kernel
# a container has neither modules nor the kernel's log
cat >/usr/local/bin/modinfo <<'END'
#!/bin/sh
[ "$1 $3 $5 $6 $7" = '-b -k -F version nvidia' ] && exec cat "$2/lib/modules/$4/nvidia.version"
exit 1
END
printf '#!/bin/sh\nexec cat /etc/nvidia-standin/kernel.log\n' >/usr/local/bin/dmesg
mv /etc/nvidia-standin.json /etc/nvidia-standin/smi.json
chmod 0644 /etc/nvidia-standin/smi.json
chmod 0755 /usr/local/bin/modinfo /usr/local/bin/dmesg
echo '[    0.000000] Linux version 6.1.0-42-amd64' >/etc/nvidia-standin/kernel.log
# older instructions: another keyring for the same repository
echo 'deb [signed-by=/usr/share/keyrings/old.asc] https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /' \
    >/etc/apt/sources.list.d/libnvidia-container.list
echo '# deb https://nvidia.github.io/nvidia-docker/debian11/$(ARCH) /' >/etc/apt/sources.list.d/nvidia-docker.list
if [ "$1" = docker ]; then
    mkdir -p /etc/docker
    cat >/etc/docker/daemon.json <<'END'
{
  "log-driver": "local",
  "exec-opts": ["native.cgroupdriver=cgroupfs"],
  "runtimes": {"other": {"path": "/usr/bin/other-runtime"}}
}
END
    chmod 0600 /etc/docker/daemon.json
    systemctl restart docker.service
fi
