// How the work is cut into tasks, and the threads that take them.

#pragma once

#include "panels.h"

namespace {

struct Task {
  int64_t expert, row, m;
  int64_t place;  // of its first token where tasks are padded
};

// Every expert's rows in even chunks of at most `limit`, in order.
std::vector<Task> tasks_of(at::IntArrayRef sizes, int64_t limit) {
  std::vector<Task> tasks;
  int64_t row = 0, place = 0;
  for (size_t e = 0; e < sizes.size(); ++e) {
    const int64_t pieces = (sizes[e] + limit - 1) / limit;
    const int64_t each = pieces ? padded((sizes[e] + pieces - 1) / pieces) : 0;
    for (int64_t start = 0; start < sizes[e]; start += each) {
      const int64_t m = std::min(each, sizes[e] - start);
      tasks.push_back({static_cast<int64_t>(e), row + start, m, place});
      place += padded(m);
    }
    row += sizes[e];
  }
  return tasks;
}

int64_t all_places(const std::vector<Task>& tasks) {
  return tasks.empty() ? 0 : tasks.back().place + padded(tasks.back().m);
}

// The largest chunk that leaves no thread without work.
int64_t chunk_limit(at::IntArrayRef sizes, int64_t limit) {
  while (limit > 2 * HALF && static_cast<int64_t>(tasks_of(sizes, limit).size()) < at::get_num_threads()) limit /= 2;
  return limit;
}

std::vector<Task> longest_first(std::vector<Task> tasks) {
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.m > b.m; });
  return tasks;
}

struct alignas(64) Line {
  float values[16];
};

// Memory of one thread, aligned to cache lines.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : lines_(new Line[floats / 16 + 1]) {}
  float* data() { return lines_[0].values; }

 private:
  std::unique_ptr<Line[]> lines_;
};

template <typename Work> void run_tasks(int64_t tasks, int64_t scratch_floats, const Work& work) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), tasks);
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    Scratch scratch(scratch_floats);
    for (int64_t i = next++; i < tasks; i = next++) work(i, scratch.data());
  });
}

}  // namespace
