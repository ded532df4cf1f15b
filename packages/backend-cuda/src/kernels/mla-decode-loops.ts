/**
 * How the two warpgroups of latent decoding (mla-decode.ts) share a sequence's tiles: CUDA C++ for the
 * place where a block's queries have come and rows o, maxima m and sums l are at their start.
 */

/**
 * Every warpgroup computes all scores. One's softmax overlaps the other's products; running ahead within
 * one would hold two stages, and with only two of them leave no time for copies.
 */
export const ALONE = `
    for (; j >= from; --j) {
      scores(ring);
      wgmma_wait<0>();
      pin(s);
      release(ring, 0);
      release(ring, 2 - part_of_v);
      if (j >= unmasked) online_softmax<true>(s, m, l, alpha, visible);
      else online_softmax<false>(s, m, l, alpha, visible);
      rescale();
      to_operand(s, p);
      pin(o);
      values(ring.stage, p);
      wgmma_wait<0>();
      pin(o);
      pin(p);
      release(ring, 1 + part_of_v);
      ring.next();
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) l[i] = quad_sum(l[i]);`;

/**
 * Tiles in pairs: a warpgroup computes the scores of one (of the last there may be none), both take the
 * maximum over the pair, and each multiplies the probabilities of both with its half of the values.
 * Threads of the same place hold the same rows, so probabilities pass as registers lie.
 */
export const PAIRS = `
    f32* const tops = (f32*)(memory + TOPS); // [2][BM]
    const int own_row = (thread >> 5) * 16 + (lane >> 2);
    const auto both = []() { asm volatile("bar.sync 1, 256;" ::: "memory"); };
    const auto exchange = [&](const f32 (&x)[2], f32 (&y)[2]) { // y = the other warpgroup's x
      if ((lane & 3) == 0) {
        tops[part_of_v * BM + own_row] = x[0];
        tops[part_of_v * BM + own_row + 8] = x[1];
      }
      both();
      #pragma unroll
      for (int i = 0; i < 2; ++i) y[i] = tops[(1 - part_of_v) * BM + own_row + 8 * i];
    };
    uint4* const at = (uint4*)(memory + K_AT + 2 * HALF * BN * 2) + thread;
    const auto give = [&](const Ring<STAGES>& ring) {
      #pragma unroll
      for (int i = 0; i < BN / 16; ++i)
        at[ring.stage * (K_BYTES / 16) + i * 128] = make_uint4(p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]);
    };
    const auto fetch = [&](const Ring<STAGES>& ring, u32 (&r)[BN / 4]) {
      #pragma unroll
      for (int i = 0; i < BN / 16; ++i) {
        const uint4 x = at[ring.stage * (K_BYTES / 16) + i * 128];
        r[4 * i] = x.x, r[4 * i + 1] = x.y, r[4 * i + 2] = x.z, r[4 * i + 3] = x.w;
      }
      fence_async();
      release(ring, 0);
      wait_tile(ring.full() + (1 + part_of_v) * SECTION, ring.phase);
    };
    f32 top[2], got[2];
    const auto own_scores = [&]() {
      top[0] = m[0], top[1] = m[1];
      scores(ring);
      wgmma_wait<0>();
      pin(s);
      release(ring, 1);
      release(ring, 2);
      if (j >= unmasked) raise_to_scores<true>(s, top, visible);
      else raise_to_scores<false>(s, top, visible);
    };
    const auto joint_softmax = [&]() {
      exchange(top, got);
      #pragma unroll
      for (int i = 0; i < 2; ++i) top[i] = fmaxf(top[i], got[i]);
      to_probabilities(s, top, m, l, alpha);
      to_operand(s, p);
    };
    Ring<STAGES> other = ring;
    (part_of_v ? ring : other).next();
    u32 r[BN / 4];
    for (j -= part_of_v; j + part_of_v > from; j -= 2) {
      own_scores();
      joint_softmax();
      give(ring);
      rescale();
      pin(o);
      // Both take the first tile's values first, so that all of it can be given back.
      if (part_of_v == 0) {
        values(ring.stage, p);
        both();
        fetch(other, r);
        values(other.stage, r);
      } else {
        both();
        fetch(other, r);
        values(other.stage, r);
        values(ring.stage, p);
      }
      wgmma_wait<1>();
      release(part_of_v ? other : ring, 1 + part_of_v);
      wgmma_wait<0>();
      pin(o);
      pin(p);
      pin(r);
      release(part_of_v ? ring : other, 1 + part_of_v);
      ring.next(), ring.next();
      other.next(), other.next();
    }
    if (j + part_of_v == from) { // one is left, the first warpgroup's
      if (part_of_v == 0) own_scores();
      else {
        top[0] = m[0], top[1] = m[1];
        #pragma unroll
        for (int i = 0; i < BN / 2; ++i) s[i] = -INF;
      }
      joint_softmax();
      if (part_of_v == 0) give(ring);
      both();
      if (part_of_v == 1) fetch(other, p);
      rescale();
      pin(o);
      values(part_of_v ? other.stage : ring.stage, p);
      wgmma_wait<0>();
      pin(o);
      pin(p);
    }
    #pragma unroll
    for (int i = 0; i < 2; ++i) l[i] = quad_sum(l[i]);
    exchange(l, got);
    #pragma unroll
    for (int i = 0; i < 2; ++i) l[i] += got[i];`;
