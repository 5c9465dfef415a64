// RUN: moe-opt %s --plan-memory | FileCheck %s

plan.kernel @copy device "cpu" operands 2

// A chain reuses two places, however long it is; sizes are rounded up to 256.
// CHECK-LABEL: plan.program @chain {{.*}} arena 1024 {{.*}}{
// CHECK: plan.alloc 300 at 0
// CHECK: plan.alloc 300 at 512
// CHECK: plan.alloc 300 at 0
// CHECK: plan.alloc 300 at 512
plan.program @chain step device "cpu" tokens 1 rows 1 scratch 0 inputs ["tokens" : i32[T]] outputs ["ids" : i32[R]] {
  %in = plan.input "tokens"
  %a = plan.alloc 300
  %b = plan.alloc 300
  %c = plan.alloc 300
  %d = plan.alloc 300
  plan.call @copy(%in, %a)
  plan.call @copy(%a, %b)
  plan.call @copy(%b, %c)
  plan.call @copy(%c, %d)
}

// A buffer that lives throughout, as the residual stream does, is never under another.
// CHECK-LABEL: plan.program @residual {{.*}} arena 1280 {{.*}}{
// CHECK: plan.alloc 256 at 1024
// CHECK: plan.alloc 512 at 0
// CHECK: plan.alloc 512 at 512
plan.program @residual step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  %h = plan.alloc 256
  %a = plan.alloc 512
  %b = plan.alloc 512
  plan.call @copy(%h, %a)
  plan.call @copy(%a, %b)
  plan.call @copy(%b, %h)
}

// The smallest gap that fits is taken: @small goes between, not behind.
// CHECK-LABEL: plan.program @gap {{.*}} arena 2560 {{.*}}{
// CHECK: plan.alloc 1024 at 0
// CHECK: plan.alloc 768 at 1024
// CHECK: plan.alloc 768 at 1792
// CHECK: plan.alloc 256 at 1024
plan.program @gap step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  %long = plan.alloc 1024
  %short = plan.alloc 768
  %other = plan.alloc 768
  plan.call @copy(%long, %short)
  plan.call @copy(%short, %other)
  %small = plan.alloc 256
  plan.call @copy(%other, %small)
  plan.call @copy(%small, %long)
}

// What nothing uses needs no place, and offsets of an earlier run do not matter.
// CHECK-LABEL: plan.program @again {{.*}} arena 256 {{.*}}{
// CHECK-NEXT: plan.alloc 64 at 0
// CHECK-NEXT: plan.call
plan.program @again step device "cpu" tokens 1 rows 1 scratch 0 arena 4096 outputs ["ids" : i32[R]] {
  %a = plan.alloc 64 at 1024
  %unused = plan.alloc 64 at 2048
  plan.call @copy(%a, %a)
}

// CHECK-LABEL: plan.program @empty {{.*}} arena 0 {{.*}}{
plan.program @empty step device "cpu" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
}

// Other devices have the same places.
plan.kernel @copy.cuda device "cuda" operands 2 grid
// CHECK-LABEL: plan.program @cuda {{.*}} arena 768 {{.*}}{
// CHECK-NEXT: plan.alloc 300 at 0
// CHECK-NEXT: plan.alloc 4 at 512
plan.program @cuda step device "cuda" tokens 1 rows 1 scratch 0 outputs ["ids" : i32[R]] {
  %a = plan.alloc 300
  %b = plan.alloc 4
  plan.call @copy.cuda(%a, %b) blocks 1
}
