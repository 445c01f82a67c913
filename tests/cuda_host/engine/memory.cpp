// Which memory a thread may touch, and whether two threads touch the same without a barrier between them.
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <stdexcept>
#include <unordered_map>

#include "state.h"

namespace cuda_host {
namespace {

// Every variable of a block has this much address space of its own, so that an index out of one variable
// never lands in the next.
constexpr uint64_t kSharedStride = 128 * 1024;
constexpr unsigned kMaxVariables = 16;
constexpr uint64_t kDynamicAlignment = 16;
constexpr unsigned char kGarbage = 0xa5;

struct Tensor {
  uint64_t begin, end;
  bool writable;
};

// The unordered accesses of one kind to a few bytes: one thread, or several.
struct Accesses {
  Stamp last;
  uint32_t period = 0;  // the launch, or the life of a block's shared memory, that they are of
  bool many_threads = false, many_warps = false, many_blocks = false;

  bool unordered_with(const Stamp& now, uint32_t this_period) const {
    if (period != this_period) return false;
    if (many_blocks || last.block != now.block) return true;
    if (last.epoch < now.epoch) return false;
    if (!many_threads && last.thread == now.thread) return false;
    return many_warps || last.warp != now.warp || last.warp_epoch >= now.warp_epoch;
  }

  void add(const Stamp& now, uint32_t this_period) {
    const bool fresh = period != this_period;
    const bool same_block = !fresh && last.block == now.block;
    // Accesses before a barrier of the block matter to other blocks only, to which this one says the same.
    const bool concurrent = same_block && last.epoch == now.epoch;
    many_blocks = !fresh && (many_blocks || !same_block);
    many_threads = concurrent && (many_threads || last.thread != now.thread);
    many_warps = concurrent && (many_warps || last.warp != now.warp);
    last = now;
    period = this_period;
  }
};

struct Cell {
  Accesses reads, writes, atomics;
};

// Cells of a stretch of memory, each for 4 bytes; for fewer once something smaller has been accessed.
class Shadow {
 public:
  static constexpr uint64_t kBytes = 1024;

  Cell* cells(uint64_t offset, uint64_t bytes, uint64_t* count) {
    while (shift_ > 0 && ((offset | bytes) & ((1u << shift_) - 1))) split();
    *count = bytes >> shift_;
    return cells_.data() + (offset >> shift_);
  }

 private:
  void split() {
    std::vector<Cell> finer;
    finer.reserve(cells_.size() * 2);
    for (const Cell& cell : cells_) finer.insert(finer.end(), 2, cell);
    cells_ = std::move(finer);
    --shift_;
  }

  unsigned shift_ = 2;
  std::vector<Cell> cells_{kBytes / 4};
};

struct SharedVariable {
  std::string name;
  size_t bytes;
  // From the start of its stretch of memory: aligned as its type is, and to no more.
  size_t start;
  std::vector<bool> written;
};

struct SharedKey {
  std::string file;
  unsigned line;
  size_t type;
  auto operator<=>(const SharedKey&) const = default;
};

struct Memory {
  std::vector<Tensor> tensors;  // sorted
  const Tensor* last_tensor = nullptr;
  std::unordered_map<uint64_t, Shadow> shadow;
  uint64_t last_page = ~uint64_t(0);
  Shadow* last_shadow = nullptr;
  uint32_t periods = 0;  // so far; accesses of an earlier one are ordered before those of a later one
  uint32_t grid = 0;     // the period of global memory
  uint32_t block = 0;    // the period of shared memory
  std::unique_ptr<char[]> arena{new char[kSharedStride * (kMaxVariables + 1)]};
  std::map<SharedKey, unsigned> places;
  std::vector<SharedVariable> variables;  // of the block; the first is the dynamic one

  char* base() const {
    return reinterpret_cast<char*>((reinterpret_cast<uint64_t>(arena.get()) + 4095) & ~uint64_t(4095));
  }
  char* start_of(unsigned place) const { return base() + place * kSharedStride + variables[place].start; }
  uint64_t shared_in_use() const {
    uint64_t sum = 0;
    for (const SharedVariable& variable : variables) sum += variable.bytes;
    return sum;
  }
  Shadow& shadow_of(uint64_t page) {
    if (page != last_page) {
      last_shadow = &shadow[page];
      last_page = page;
    }
    return *last_shadow;
  }
};

thread_local Memory memory;

const char* verb(Access access) {
  return access == Access::kRead ? "reads" : access == Access::kWrite ? "writes" : "atomically updates";
}

std::string bytes_text(uint64_t bytes) { return std::to_string(bytes) + " bytes"; }

const Tensor* find_tensor(uint64_t address, uint64_t bytes) {
  const auto after = std::upper_bound(memory.tensors.begin(), memory.tensors.end(), address,
                                      [](uint64_t a, const Tensor& t) { return a < t.begin; });
  const Tensor* best = nullptr;
  for (auto it = after; it != memory.tensors.begin();) {
    --it;
    if (address >= it->begin && address + bytes <= it->end && (!best || it->writable)) best = &*it;
  }
  return best;
}

// "12 bytes past the end of a tensor of 400 bytes": of the tensor that is nearest.
std::string nearest_tensor(uint64_t address) {
  uint64_t least = ~uint64_t(0);
  std::string text = "which no tensor of this call is near";
  for (const Tensor& tensor : memory.tensors) {
    const bool before = address < tensor.begin;
    const uint64_t distance = before ? tensor.begin - address : address - std::min(address, tensor.end);
    if (distance >= least) continue;
    least = distance;
    text = std::to_string(distance) + (before ? " bytes before the start" : " bytes past the end") +
           " of a tensor of " + bytes_text(tensor.end - tensor.begin);
  }
  return least > (1u << 20) ? "which no tensor of this call is near" : text;
}

[[noreturn]] void race(const Stamp& now, const Accesses& other, Access mine, const char* theirs,
                       const void* pc) {
  std::string who = "thread " + std::to_string(other.last.thread);
  if (other.last.block != now.block) who += " of block " + std::to_string(other.last.block);
  fail(std::string("data race: it ") + verb(mine) + " memory that " + who + " " + theirs +
           " with no barrier between the two",
       pc);
}

void check_races(uint64_t address, uint64_t bytes, Access access, uint32_t period, const void* pc) {
  const Stamp& now = running->stamp;
  while (bytes > 0) {
    const uint64_t offset = address % Shadow::kBytes;
    const uint64_t part = std::min(bytes, Shadow::kBytes - offset);
    uint64_t count;
    Cell* cells = memory.shadow_of(address / Shadow::kBytes).cells(offset, part, &count);
    for (uint64_t i = 0; i < count; ++i) {
      Cell& cell = cells[i];
      if (cell.writes.unordered_with(now, period)) race(now, cell.writes, access, "writes", pc);
      if (access != Access::kAtomic && cell.atomics.unordered_with(now, period)) {
        race(now, cell.atomics, access, "atomically updates", pc);
      }
      if (access != Access::kRead && cell.reads.unordered_with(now, period)) {
        race(now, cell.reads, access, "reads", pc);
      }
      Accesses& mine = access == Access::kRead    ? cell.reads
                       : access == Access::kWrite ? cell.writes
                                                  : cell.atomics;
      mine.add(now, period);
    }
    address += part;
    bytes -= part;
  }
}

void check_shared(uint64_t offset, uint64_t bytes, Access access, const void* pc) {
  const uint64_t index = offset / kSharedStride;
  const bool known = index < memory.variables.size();
  // What lies before the start has a huge offset.
  const uint64_t begin = offset % kSharedStride - (known ? memory.variables[index].start : 0);
  if (!known || begin > memory.variables[index].bytes || begin + bytes > memory.variables[index].bytes) {
    fail(std::string("it ") + verb(access) + " " + bytes_text(bytes) + " of shared memory at offset " +
             std::to_string(int64_t(begin)) +
             (known ? " of " + memory.variables[index].name + ", which has " +
                          bytes_text(memory.variables[index].bytes)
                    : " of no variable"),
         pc);
  }
  SharedVariable& variable = memory.variables[index];
  for (uint64_t i = begin; i < begin + bytes; ++i) {
    if (access == Access::kWrite) {
      variable.written[i] = true;
    } else if (!variable.written[i]) {
      fail(std::string("it ") + verb(access) + " shared memory that was never written, at offset " +
               std::to_string(i) + " of " + variable.name,
           pc);
    }
  }
}

void check_tensor(uint64_t address, uint64_t bytes, Access access, const void* pc) {
  const Tensor* tensor = memory.last_tensor;
  const bool fits = tensor && address >= tensor->begin && address + bytes <= tensor->end &&
                    (tensor->writable || access == Access::kRead);
  if (!fits) tensor = find_tensor(address, bytes);
  if (!tensor) {
    fail(std::string("it ") + verb(access) + " " + bytes_text(bytes) + " outside all tensors, " +
             nearest_tensor(address),
         pc);
  }
  if (access != Access::kRead && !tensor->writable) {
    fail(std::string("it ") + verb(access) + " an input tensor, that the host has taken as const", pc);
  }
  memory.last_tensor = tensor;
}

}  // namespace

void add_tensor(const void* data, uint64_t bytes, bool writable) {
  if (bytes == 0) return;
  const uint64_t begin = reinterpret_cast<uint64_t>(data);
  const Tensor tensor{begin, begin + bytes, writable};
  const auto place = std::upper_bound(memory.tensors.begin(), memory.tensors.end(), tensor,
                                      [](const Tensor& a, const Tensor& b) { return a.begin < b.begin; });
  memory.tensors.insert(place, tensor);
  memory.last_tensor = nullptr;
}

void clear_tensors() {
  memory.tensors.clear();
  memory.last_tensor = nullptr;
  memory.shadow.clear();
  memory.last_page = ~uint64_t(0);
}

void begin_grid_memory() { memory.grid = ++memory.periods; }

void begin_block_memory() {
  memory.block = ++memory.periods;
  // What a block leaves in shared memory is not there for the next one.
  memory.places.clear();
  memory.variables.clear();
  memory.variables.push_back({"the dynamic shared memory", launch->shared_bytes, kDynamicAlignment, {}});
  memory.variables[0].written.assign(launch->shared_bytes, false);
  std::memset(memory.start_of(0), kGarbage, std::min<uint64_t>(launch->shared_bytes, kMaxShared));
}

void* dynamic_shared_memory() { return memory.start_of(0); }

void* shared_variable(const char* name, size_t bytes, size_t alignment, const std::type_info& type,
                      const Where& where) {
  const Unwatched unwatched;
  const SharedKey key{where.file_name(), where.line(), type.hash_code()};
  const auto found = memory.places.find(key);
  if (found != memory.places.end()) return memory.start_of(found->second);
  const unsigned place = unsigned(memory.variables.size());
  if (place >= kMaxVariables) fail("a block has more shared variables than this engine keeps apart");
  memory.places.emplace(key, place);
  memory.variables.push_back({name, bytes, alignment, std::vector<bool>(bytes, false)});
  if (memory.shared_in_use() > kMaxShared) {
    fail("a block has at most " + std::to_string(kMaxShared) +
         " bytes of shared memory without opting in to more, static and dynamic together are " +
         std::to_string(memory.shared_in_use()));
  }
  std::memset(memory.start_of(place), kGarbage, bytes);
  return memory.start_of(place);
}

int64_t shared_offset(const volatile void* address) {
  const char* p = const_cast<const char*>(static_cast<const volatile char*>(address));
  const char* base = memory.base();
  return p >= base && p < base + kSharedStride * kMaxVariables ? p - base : -1;
}

void check_aligned(const volatile void* address, size_t bytes, Access access, const void* pc) {
  if (running && running->in_kernel && reinterpret_cast<uint64_t>(address) % bytes != 0) {
    const Unwatched unwatched;
    fail(std::string("it ") + verb(access) + " " + bytes_text(bytes) +
             " at an address that is not a multiple of that",
         pc);
  }
  check_access(address, bytes, access, pc);
}

void check_access(const volatile void* address, size_t bytes, Access access, const void* pc) {
  if (!running || !running->in_kernel || bytes == 0) return;
  const Unwatched unwatched;
  const unsigned thread = running->stamp.thread;
  if (on_a_stack(address)) {
    if (!on_stack_of(address, thread)) fail("it follows a pointer to a local variable of another thread", pc);
    return;
  }
  const uint64_t at = reinterpret_cast<uint64_t>(address);
  const int64_t offset = shared_offset(address);
  if (offset >= 0) {
    check_shared(uint64_t(offset), bytes, access, pc);
  } else {
    check_tensor(at, bytes, access, pc);
  }
  if (settings.races) check_races(at, bytes, access, offset >= 0 ? memory.block : memory.grid, pc);
  if (settings.cost)
    trace_access(thread, offset >= 0 ? uint64_t(offset) : at, unsigned(bytes), access, offset >= 0, pc);
}

void check_host_access(const void* address, uint64_t bytes, bool write) {
  if (bytes == 0) return;
  const Tensor* tensor = find_tensor(reinterpret_cast<uint64_t>(address), bytes);
  if (!tensor || (write && !tensor->writable)) {
    throw std::runtime_error("CUDA on the host: the host " + std::string(write ? "writes " : "reads ") +
                             bytes_text(bytes) + " of device memory outside all tensors, " +
                             nearest_tensor(reinterpret_cast<uint64_t>(address)));
  }
}

}  // namespace cuda_host
