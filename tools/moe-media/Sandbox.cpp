// seccomp and Landlock by their system calls, as linux/seccomp.h and linux/landlock.h have them, so
// that no library is needed.
#include "tools/moe-media/Sandbox.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <vector>

namespace moe {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "moe-media's filter knows the system calls of x86-64 and aarch64 alone"
#endif

Error failure(const char *what) {
  return {Code::Unavailable, std::string("this system gives moe-media no sandbox: ") + what + ": " +
                                 std::strerror(errno)};
}

Status limit(decltype(RLIMIT_CPU) resource, uint64_t most) {
  rlimit now;
  if (getrlimit(resource, &now) != 0)
    return failure("getrlimit");
  const rlim_t value = std::min<rlim_t>(most, now.rlim_max); // it may be less already
  now = {value, value};
  if (setrlimit(resource, &now) != 0)
    return failure("setrlimit");
  return ok();
}

// A classic BPF program over the number of a system call and the lower halves of its arguments.
class Filter {
public:
  explicit Filter(uint32_t otherwise) : otherwise(otherwise) {
    // Numbers mean something else to another architecture, x32 among them.
    load(offsetof(seccomp_data, arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
    add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    load(offsetof(seccomp_data, nr));
#if defined(__x86_64__)
    add(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1);
    add(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
#endif
  }

  void on(long call, uint32_t action) {
    add(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(call), 0, 1);
    add(BPF_RET | BPF_K, action);
  }
  // `action`, if an argument has one of these bits, or none of them.
  void onBits(long call, int argument, uint32_t bits, uint32_t action, bool has = true) {
    add(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(call), 0, 4);
    load(offsetof(seccomp_data, args) + size_t(argument) * 8); // little-endian: the lower half
    add(BPF_JMP | BPF_JSET | BPF_K, bits, has ? 0 : 1, has ? 1 : 0);
    add(BPF_RET | BPF_K, action);
    load(offsetof(seccomp_data, nr));
  }

  Status install() {
    add(BPF_RET | BPF_K, otherwise);
    sock_fprog program{uint16_t(code.size()), code.data()};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
      return failure("seccomp");
    return ok();
  }

private:
  void add(int operation, uint32_t value, uint8_t then = 0, uint8_t otherwise = 0) {
    code.push_back({uint16_t(operation), then, otherwise, value});
  }
  void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, uint32_t(offset)); }

  uint32_t otherwise;
  std::vector<sock_filter> code;
};

// Common to both.
Status giveUpPrivileges() {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return failure("PR_SET_NO_NEW_PRIVS");
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0)
    return failure("prctl");
  if (syscall(SYS_close_range, 3, ~0u, 0) != 0)
    return failure("close_range");
  return limit(RLIMIT_CORE, 0);
}

// Reading below some folders is allowed, all else of files is not. Kernels before 5.13 have no
// Landlock; there the filter alone keeps files from being changed, but not from being read.
Status allowReading(const std::vector<std::string> &paths) {
  const long version =
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version < 1)
    return ok();
  constexpr uint64_t kRead =
      LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
  landlock_ruleset_attr handled{};
  handled.handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1; // all of version 1
  const long rules = syscall(SYS_landlock_create_ruleset, &handled, sizeof handled, 0);
  if (rules < 0)
    return failure("landlock_create_ruleset");
  for (const std::string &path : paths) {
    const int folder = open(path.c_str(), O_PATH | O_CLOEXEC);
    if (folder < 0)
      continue; // not every system has each of them
    landlock_path_beneath_attr below{};
    below.parent_fd = folder;
    below.allowed_access = kRead;
    if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &below, 0) != 0) {
      below.allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE; // a file
      if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &below, 0) != 0)
        return failure("landlock_add_rule");
    }
    close(folder);
  }
  if (syscall(SYS_landlock_restrict_self, rules, 0) != 0)
    return failure("landlock_restrict_self");
  close(int(rules));
  return ok();
}

} // namespace

Status enterDecoderSandbox() {
  if (kIsSanitized)
    return ok();
  MOE_TRY(giveUpPrivileges());
  MOE_TRY(limit(RLIMIT_AS, uint64_t(1) << 30));
  MOE_TRY(limit(RLIMIT_CPU, 10));
  MOE_TRY(limit(RLIMIT_NOFILE, 3));
  Filter filter(SECCOMP_RET_KILL_PROCESS);
  filter.onBits(SYS_mmap, 2, PROT_EXEC, SECCOMP_RET_KILL_PROCESS);
  filter.onBits(SYS_mprotect, 2, PROT_EXEC, SECCOMP_RET_KILL_PROCESS);
  for (const long call :
       {SYS_read, SYS_write, SYS_mmap, SYS_munmap, SYS_mremap, SYS_brk, SYS_mprotect, SYS_madvise,
        SYS_getrandom, SYS_futex, SYS_rt_sigreturn, SYS_exit, SYS_exit_group})
    filter.on(call, SECCOMP_RET_ALLOW);
  return filter.install();
}

Status enterProgramSandbox(const std::string &program) {
  if (kIsSanitized)
    return ok();
  MOE_TRY(giveUpPrivileges());
  MOE_TRY(limit(RLIMIT_AS, uint64_t(3) << 30));
  MOE_TRY(limit(RLIMIT_CPU, 120));
  MOE_TRY(limit(RLIMIT_NOFILE, 64));
  MOE_TRY(limit(RLIMIT_FSIZE, 0));
  std::vector<std::string> readable = {"/usr",       "/lib", "/lib64", "/etc/ld.so.cache",
                                       "/nix/store", program};
  const std::string folder = program.substr(0, program.rfind('/'));
  readable.push_back(folder.substr(0, folder.rfind('/') + 1) + "lib");
  MOE_TRY(allowReading(readable));

  constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EACCES;
  Filter filter(SECCOMP_RET_ALLOW);
  constexpr uint32_t kWrites = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND;
  filter.onBits(SYS_openat, 2, kWrites, kRefuse);
  filter.onBits(SYS_clone, 0, CLONE_THREAD, kRefuse, false);
  // Their arguments are in memory, where no filter can look: C libraries do without them.
  for (const long call : {SYS_openat2, SYS_clone3})
    filter.on(call, SECCOMP_RET_ERRNO | ENOSYS);
  for (const long call : {SYS_socket,
                          SYS_socketpair,
                          SYS_connect,
                          SYS_bind,
                          SYS_listen,
                          SYS_accept,
                          SYS_accept4,
                          SYS_sendto,
                          SYS_sendmsg,
                          SYS_io_uring_setup,
                          SYS_io_uring_enter,
                          SYS_io_uring_register,
                          SYS_kill,
                          SYS_tkill,
                          SYS_ptrace,
                          SYS_process_vm_readv,
                          SYS_process_vm_writev,
                          SYS_pidfd_open,
                          SYS_pidfd_getfd,
                          SYS_unshare,
                          SYS_setns,
                          SYS_mount,
                          SYS_umount2,
                          SYS_pivot_root,
                          SYS_chroot,
                          SYS_bpf,
                          SYS_perf_event_open,
                          SYS_userfaultfd,
                          SYS_keyctl,
                          SYS_add_key,
                          SYS_request_key,
                          SYS_mknodat,
                          SYS_mkdirat,
                          SYS_unlinkat,
                          SYS_renameat,
                          SYS_renameat2,
                          SYS_linkat,
                          SYS_symlinkat,
                          SYS_fchmodat,
                          SYS_fchmod,
                          SYS_fchownat,
                          SYS_fchown,
                          SYS_truncate,
                          SYS_utimensat,
                          SYS_setxattr,
                          SYS_shmget,
                          SYS_shmat,
                          SYS_msgget,
                          SYS_semget,
                          SYS_mq_open,
                          SYS_personality})
    filter.on(call, kRefuse);
#if defined(__x86_64__)
  filter.onBits(SYS_open, 1, kWrites, kRefuse);
  for (const long call :
       {SYS_creat, SYS_fork, SYS_vfork, SYS_unlink, SYS_rename, SYS_mkdir, SYS_rmdir, SYS_link,
        SYS_symlink, SYS_chmod, SYS_chown, SYS_lchown, SYS_mknod, SYS_utime, SYS_utimes})
    filter.on(call, kRefuse);
#endif
  return filter.install();
}

} // namespace moe
