// In place of libFuzzer, where it is missing: inputs of random length and bytes for a number of seconds.
//
//   random_inputs SECONDS SEED       inputs of SEED, SEED + 1, ...; says which one was at work when one fails
//   random_inputs --seed SEED        that one input again
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" void __sanitizer_set_death_callback(void (*callback)());

namespace {

constexpr unsigned kSecondsPerInput = 30;
uint64_t at_work;

void name_seed() { std::fprintf(stderr, "\nseed %llu\n", static_cast<unsigned long long>(at_work)); }

void timed_out(int) {
  std::fprintf(stderr, "no end after %u seconds", kSecondsPerInput);
  name_seed();
  _exit(70);
}

void run(uint64_t seed) {
  at_work = seed;
  alarm(kSecondsPerInput);
  std::mt19937_64 random(seed);
  const size_t sizes[] = {16, 256, 2048, 16384};
  std::vector<uint8_t> input(random() % sizes[random() % 4]);
  for (uint8_t& byte : input) byte = uint8_t(random());
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s SECONDS SEED | --seed SEED\n", arguments[0]);
    return 2;
  }
  __sanitizer_set_death_callback(name_seed);
  std::signal(SIGALRM, timed_out);
  uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  if (!std::strcmp(arguments[1], "--seed")) {
    run(seed);
    return 0;
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
  const uint64_t first = seed;
  while (std::chrono::steady_clock::now() < end) {
    run(seed++);
  }
  std::printf("%llu inputs\n", static_cast<unsigned long long>(seed - first));
}
