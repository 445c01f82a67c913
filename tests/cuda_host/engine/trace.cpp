// Costs: what the lanes of a warp do is put back in step, and each step's memory traffic is counted.
//
// A thread notes its accesses and the basic blocks it enters. Lanes are then led through their notes
// together: of all lanes the ones deepest in calls and, among those, at the lowest address go first, and
// lanes at the same address are one step. Lanes that wait in a branch or have left a loop early lie at a
// higher address, so this reconverges where compilers make warps reconverge, as long as code is laid out in
// program order (-fno-reorder-blocks).
#include <algorithm>
#include <map>
#include <unordered_set>

#include "state.h"

namespace cuda_host {
namespace {

constexpr uint64_t kSector = 32;
constexpr uint64_t kBanks = 32;

enum class Note : uint8_t { kRead, kWrite, kAtomic, kBlock, kMeeting };

struct Event {
  uint64_t pc;
  uint64_t address;
  uint32_t bytes;
  uint16_t depth;
  Note note;
  bool shared;
};

struct Cost {
  uint64_t launches = 0, blocks = 0, blocks_run = 0, threads = 0, barriers = 0;
  uint64_t read_bytes = 0, written_bytes = 0;        // of global memory, asked for by threads
  uint64_t read_sectors = 0, written_sectors = 0;    // touched by warp accesses
  uint64_t block_sectors = 0;                        // read or written, each counted once a block
  uint64_t atomics = 0, atomic_sectors = 0;          // by threads; by warp accesses
  uint64_t shared_accesses = 0, bank_conflicts = 0;  // of warps; passes beyond those without conflict
  uint64_t dynamic_shared_bytes = 0;
};

struct Trace {
  std::vector<std::vector<Event>> threads{kMaxThreads};
  std::vector<uint16_t> depth = std::vector<uint16_t>(kMaxThreads);
  std::unordered_set<uint64_t> sectors;  // of the block
  std::map<std::string, Cost> costs;
};

thread_local Trace trace;

bool on() { return settings.cost && running && running->in_kernel; }

// The passes that a shared access of some lanes takes, and the fewest that as many bytes could take.
std::pair<uint64_t, uint64_t> shared_passes(const std::vector<Event>& lanes) {
  const size_t together = std::max<size_t>(1, kBanks * 4 / std::max<uint32_t>(lanes[0].bytes, 4));
  uint64_t passes = 0, least = 0;
  for (size_t first = 0; first < lanes.size(); first += together) {
    std::map<uint64_t, std::unordered_set<uint64_t>> words;  // of each bank
    for (size_t i = first; i < std::min(first + together, lanes.size()); ++i) {
      for (uint64_t word = lanes[i].address / 4; word <= (lanes[i].address + lanes[i].bytes - 1) / 4;
           ++word) {
        words[word % kBanks].insert(word);
      }
    }
    size_t most = 0;
    for (const auto& [bank, distinct] : words) most = std::max(most, distinct.size());
    passes += most;
    ++least;
  }
  return {passes, least};
}

void count_access(Cost& cost, const std::vector<Event>& lanes) {
  if (lanes[0].shared) {
    const auto [passes, least] = shared_passes(lanes);
    ++cost.shared_accesses;
    cost.bank_conflicts += passes - least;
    return;
  }
  std::vector<uint64_t> sectors;
  uint64_t bytes = 0;
  for (const Event& event : lanes) {
    bytes += event.bytes;
    for (uint64_t s = event.address / kSector; s <= (event.address + event.bytes - 1) / kSector; ++s) {
      sectors.push_back(s);
    }
  }
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  trace.sectors.insert(sectors.begin(), sectors.end());
  switch (lanes[0].note) {
    case Note::kRead:
      cost.read_bytes += bytes;
      cost.read_sectors += sectors.size();
      return;
    case Note::kWrite:
      cost.written_bytes += bytes;
      cost.written_sectors += sectors.size();
      return;
    default:
      cost.atomics += lanes.size();
      cost.atomic_sectors += sectors.size();
  }
}

void replay_warp(Cost& cost, unsigned first, unsigned lanes) {
  std::vector<size_t> at(lanes);
  const auto head = [&](unsigned lane) -> const Event* {
    const std::vector<Event>& events = trace.threads[first + lane];
    return at[lane] < events.size() ? &events[at[lane]] : nullptr;
  };
  std::vector<Event> step;
  for (;;) {
    const Event* next = nullptr;
    bool any = false;
    for (unsigned lane = 0; lane < lanes; ++lane) {
      const Event* event = head(lane);
      any = any || event;
      if (!event || event->note == Note::kMeeting) continue;
      if (!next || event->depth > next->depth || (event->depth == next->depth && event->pc < next->pc))
        next = event;
    }
    if (!any) return;
    if (!next) {  // every lane has met the others
      for (unsigned lane = 0; lane < lanes; ++lane) at[lane] += head(lane) != nullptr;
      continue;
    }
    const Event chosen = *next;
    step.clear();
    for (unsigned lane = 0; lane < lanes; ++lane) {
      const Event* event = head(lane);
      if (!event || event->pc != chosen.pc || event->depth != chosen.depth || event->note != chosen.note)
        continue;
      step.push_back(*event);
      ++at[lane];
    }
    if (chosen.note != Note::kBlock) count_access(cost, step);
  }
}

}  // namespace

void trace_access(unsigned thread, uint64_t address, unsigned bytes, Access access, bool shared,
                  const void* pc) {
  // A structure is moved in pieces that its address allows.
  while (bytes > 0) {
    unsigned piece = 16;
    while (piece > bytes || address % piece != 0) piece /= 2;
    trace.threads[thread].push_back(
        {reinterpret_cast<uint64_t>(pc), address, piece, trace.depth[thread], Note(access), shared});
    address += piece;
    bytes -= piece;
  }
}

void trace_meeting(unsigned thread, bool barrier) {
  if (!settings.cost) return;
  trace.threads[thread].push_back({0, 0, 0, 0, Note::kMeeting, false});
  if (barrier && thread == 0) ++trace.costs[launch->kernel].barriers;
}

void trace_block(const void* pc) {
  if (!on()) return;
  const unsigned thread = running->stamp.thread;
  trace.threads[thread].push_back(
      {reinterpret_cast<uint64_t>(pc), 0, 0, trace.depth[thread], Note::kBlock, false});
}

void trace_call(int change) {
  if (on()) trace.depth[running->stamp.thread] += change;
}

void finish_block_trace() {
  if (!settings.cost) return;
  Cost& cost = trace.costs[launch->kernel];
  const unsigned threads = unsigned(launch->threads);
  for (unsigned first = 0; first < threads; first += kWarp)
    replay_warp(cost, first, std::min(kWarp, threads - first));
  cost.block_sectors += trace.sectors.size();
  trace.sectors.clear();
  for (unsigned thread = 0; thread < threads; ++thread) {
    trace.threads[thread].clear();
    trace.depth[thread] = 0;
  }
  ++cost.blocks_run;
}

void finish_grid_trace() {
  if (!settings.cost) return;
  Cost& cost = trace.costs[launch->kernel];
  ++cost.launches;
  cost.blocks += launch->blocks;
  cost.threads = launch->threads;
  cost.dynamic_shared_bytes = std::max(cost.dynamic_shared_bytes, launch->shared_bytes);
}

std::string costs_text() {
  std::string text;
  for (const auto& [kernel, c] : trace.costs) {
    text += kernel;
    for (const uint64_t number :
         {c.launches, c.blocks, c.blocks_run, c.threads, c.barriers, c.read_bytes, c.written_bytes,
          c.read_sectors, c.written_sectors, c.block_sectors, c.atomics, c.atomic_sectors, c.shared_accesses,
          c.bank_conflicts, c.dynamic_shared_bytes}) {
      text += "\t" + std::to_string(number);
    }
    text += "\n";
  }
  trace.costs.clear();
  return text;
}

}  // namespace cuda_host
