"""Losses and likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from people.catalogue import case, forward

# Losses


@case
def label_smoothing(draw):
    labels = draw.rng.integers(0, 6, 12)

    def loss(logits):
        aim = jax.nn.one_hot(labels, 6) * 0.9 + 0.1 / 6
        return -jnp.mean(jnp.sum(aim * jax.nn.log_softmax(logits), axis=-1))

    return loss, (draw.normal(12, 6, scale=3),)


@case(needs="optax")
def connectionist_temporal_classification(draw):
    import optax

    labels, label_padding = np.array([[1, 2, 2], [3, 1, 0]]), np.array([[0.0, 0, 0], [0, 0, 1]])
    padding = np.array([[0.0] * 8, [0.0] * 6 + [1.0] * 2])

    def loss(logits):
        return optax.ctc_loss(logits, padding, labels, label_padding).mean()

    return loss, (draw.normal(2, 8, 4),)


@case(argnums=(0, 1))
def focal_loss(draw):
    labels = draw.rng.integers(0, 2, 15)

    def loss(w, x):
        p = jax.nn.sigmoid(x @ w)
        p_right = jnp.where(labels == 1, p, 1 - p)
        return jnp.mean(-0.25 * (1 - p_right) ** 2 * jnp.log(p_right + 1e-7))

    return loss, (draw.normal(4), draw.normal(15, 4))


@case(argnums=(0, 1, 2))
def triplet_loss(draw):
    def loss(anchor, positive, negative):
        near = jnp.linalg.norm(anchor - positive, axis=1)
        far = jnp.linalg.norm(anchor - negative, axis=1)
        return jnp.maximum(near - far + 0.5, 0).sum()

    return loss, tuple(draw.normal(6, 3) for _ in range(3))


@case
def multiclass_hinge(draw):
    labels = draw.rng.integers(0, 4, 10)

    def loss(w, x):
        scores = x @ w
        margin = scores - scores[jnp.arange(10), labels][:, None] + 1
        return jnp.maximum(margin.at[jnp.arange(10), labels].set(0), 0).sum() / 10 + 1e-2 * (w**2).sum()

    return loss, (draw.normal(5, 4), draw.normal(10, 5))


@case(argnums=(0, 1))
def contrastive_loss(draw):
    def loss(a, b):
        a, b = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
        logits = a @ b.T / 0.1
        diagonal = jnp.diag(jax.nn.log_softmax(logits, 1)) + jnp.diag(jax.nn.log_softmax(logits, 0))
        return -diagonal.mean()

    return loss, (draw.normal(6, 4), draw.normal(6, 4))


@case
def huber_regression(draw):
    x = draw.normal(20, 3)
    y = x @ np.array([1.0, -2.0, 0.5]) + draw.normal(20, scale=2)

    def loss(w, delta=1.0):
        r = jnp.abs(x @ w - y)
        return jnp.where(r <= delta, r**2 / 2, delta * (r - delta / 2)).mean()

    return loss, (draw.normal(3),)


@case
def pinball_loss_of_three_quantiles(draw):
    x, y, levels = draw.normal(20, 2), draw.normal(20), np.array([0.1, 0.5, 0.9])

    def loss(w):
        error = y[:, None] - x @ w
        return jnp.mean(jnp.maximum(levels * error, (levels - 1) * error))

    return loss, (draw.normal(2, 3),)


@case(needs="optax")
def losses_of_optax(draw):
    import optax

    labels, y = draw.rng.integers(0, 4, 8), draw.uniform(0, 1, 8, 4)

    def loss(z):
        return (
            optax.softmax_cross_entropy_with_integer_labels(z, labels).sum()
            + optax.sigmoid_binary_cross_entropy(z, y).mean()
            + optax.huber_loss(z, y).mean()
            + optax.cosine_distance(z, y).sum()
            + optax.log_cosh(z, y).sum()
        )

    return loss, (draw.normal(8, 4),)


@case
def supervised_ranking_by_approximate_ndcg(draw):
    gain = 2.0 ** draw.rng.integers(0, 4, 9) - 1

    def loss(w, x):
        s = x @ w
        rank = 0.5 + jax.nn.sigmoid((s[None] - s[:, None]) / 0.3).sum(1)
        ideal = jnp.sum(-jnp.sort(-gain) / jnp.log2(jnp.arange(9) + 2))
        return -jnp.sum(gain / jnp.log2(rank + 1)) / ideal

    return loss, (draw.normal(3), draw.normal(9, 3))


@case
def cross_entropy_of_1000_examples(draw):
    labels = draw.rng.integers(0, 3, 1000)

    def loss(params, x):
        return -jax.nn.log_softmax(x @ params["w"] + params["b"])[jnp.arange(1000), labels].mean()

    return loss, ({"w": draw.normal(5, 3), "b": draw.normal(3)}, draw.normal(1000, 5))


@case(argnums=(0, 1))
def dice_and_smooth_l1(draw):
    mask = draw.rng.integers(0, 2, (6, 6))

    def loss(logits, boxes):
        p = jax.nn.sigmoid(logits)
        dice = 1 - (2 * jnp.sum(p * mask) + 1) / (jnp.sum(p) + jnp.sum(mask) + 1)
        top, bottom = jnp.maximum(boxes[0, :2], boxes[1, :2]), jnp.minimum(boxes[0, 2:], boxes[1, 2:])
        inter = jnp.prod(jnp.maximum(bottom - top, 0))
        areas = jnp.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        return dice + 1 - inter / (areas.sum() - inter)

    boxes = draw.array([[0.0, 0.1, 2.0, 1.9], [0.7, 0.4, 2.6, 3.1]])
    return loss, (draw.normal(6, 6), boxes)


# Likelihoods


@case
def gaussian_likelihood(draw):
    y = draw.normal(30, scale=2)

    def nll(p):
        scale = jnp.exp(p["log_scale"])
        return -jax.scipy.stats.norm.logpdf(y, p["mean"], scale).sum()

    return nll, ({"mean": draw.array(0.3), "log_scale": draw.array(0.2)},)


@case(argnums=(0, 1, 2))
def student_t_regression(draw):
    x, y = draw.normal(15, 2), draw.normal(15)

    def nll(w, log_scale, log_df):
        df, z = 1 + jnp.exp(log_df), (y - x @ w) / jnp.exp(log_scale)
        constant = jax.scipy.special.gammaln((df + 1) / 2) - jax.scipy.special.gammaln(df / 2)
        return jnp.sum(
            (df + 1) / 2 * jnp.log1p(z**2 / df) + log_scale + 0.5 * jnp.log(df * jnp.pi) - constant
        )

    return nll, (draw.normal(2), draw.array(0.1), draw.array(1.2))


@case(argnums=(0, 1))
def beta_likelihood(draw):
    y = draw.uniform(0.05, 0.95, 12)

    def nll(a, b):
        return -jax.scipy.stats.beta.logpdf(y, jax.nn.softplus(a), jax.nn.softplus(b)).mean()

    return nll, (draw.array(0.7), draw.array(1.9))


@case
def gamma_likelihood(draw):
    y = draw.uniform(0.3, 4, 12)

    def nll(log_ab):
        a, b = jnp.exp(log_ab)
        return -jax.scipy.stats.gamma.logpdf(y, a, scale=1 / b).sum()

    return nll, (draw.array([0.4, -0.3]),)


@case
def dirichlet_likelihood(draw):
    p = jax.nn.softmax(draw.normal(7, 4))

    def nll(alpha):
        return -jax.vmap(jax.scipy.stats.dirichlet.logpdf, (0, None))(
            p / p.sum(1, keepdims=True), alpha
        ).sum()

    return nll, (draw.uniform(0.5, 3, 4),)


@case
def negative_binomial_likelihood(draw):
    counts, x = draw.rng.integers(0, 12, 14), draw.normal(14, 2)

    def nll(p):
        mean, r = jnp.exp(x @ p["w"]), jnp.exp(p["log_r"])
        lgamma = jax.scipy.special.gammaln
        log_p = lgamma(counts + r) - lgamma(r) - lgamma(counts + 1.0)
        return -jnp.sum(log_p + r * jnp.log(r / (r + mean)) + counts * jnp.log(mean / (r + mean)))

    return nll, ({"w": draw.normal(2), "log_r": draw.array(0.5)},)


@case(argnums=(0, 1))
def multivariate_normal_by_its_cholesky_factor(draw):
    y, rows = draw.normal(10, 3), np.tril_indices(3)

    def nll(mean, entries):
        factor = jnp.zeros((3, 3), entries.dtype).at[rows].set(entries)
        factor = jnp.tril(factor, -1) + jnp.diag(jnp.exp(jnp.diag(factor)))
        covariance = factor @ factor.T
        return -jax.scipy.stats.multivariate_normal.logpdf(y, mean, covariance).sum()

    return nll, (draw.normal(3), draw.normal(6, scale=0.5))


@case
def gaussian_process_marginal_likelihood(draw):
    x = jnp.sort(draw.uniform(0, 5, 15))
    y = jnp.sin(x) + draw.normal(15, scale=0.1)

    def nll(log_hyper):
        length, amplitude, noise = jnp.exp(log_hyper)
        kernel = amplitude**2 * jnp.exp(-0.5 * ((x[:, None] - x) / length) ** 2)
        factor = jnp.linalg.cholesky(kernel + (noise**2 + 1e-6) * jnp.eye(15))
        alpha = jax.scipy.linalg.cho_solve((factor, True), y)
        return 0.5 * y @ alpha + jnp.log(jnp.diag(factor)).sum()

    return nll, (draw.array([0.2, 0.1, -1.5]),)


@case(argnums=(0, 1))
def matern_kernel_with_a_double_where(draw):
    x, y = draw.normal(8, 2), draw.normal(8)

    def nll(log_length, jitter):
        squared = jnp.sum(((x[:, None] - x) / jnp.exp(log_length)) ** 2, -1)
        distance = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        kernel = (1 + jnp.sqrt(3) * distance) * jnp.exp(-jnp.sqrt(3) * distance) + jitter * jnp.eye(8)
        sign, log_det = jnp.linalg.slogdet(kernel)
        return 0.5 * (sign * log_det + y @ jnp.linalg.solve(kernel, y))

    return nll, (draw.array([0.1, -0.4]), draw.array(0.3))


@case
def kalman_filter(draw):
    ys = jnp.cumsum(draw.normal(15, 1, scale=0.5), axis=0)

    def nll(p):
        step, observe = jnp.array([[1.0, p["dt"]], [0.0, 0.95]]), jnp.array([[1.0, 0.0]])
        q, r = jnp.exp(p["log_q"]) * jnp.eye(2), jnp.exp(p["log_r"]) * jnp.eye(1)

        def update(carry, y):
            mean, cov = carry
            mean, cov = step @ mean, step @ cov @ step.T + q
            residual, s = y - observe @ mean, observe @ cov @ observe.T + r
            gain = jnp.linalg.solve(s, observe @ cov).T
            log_p = -0.5 * (residual @ jnp.linalg.solve(s, residual) + jnp.linalg.slogdet(s)[1])
            return (mean + gain @ residual, cov - gain @ observe @ cov), log_p

        start = (jnp.zeros(2, ys.dtype), jnp.eye(2, dtype=ys.dtype))
        return -lax.scan(update, start, ys)[1].sum()

    return nll, ({"dt": draw.array(0.3), "log_q": draw.array(-1.0), "log_r": draw.array(-0.5)},)


@case
def hidden_markov_model(draw):
    words = draw.rng.integers(0, 5, 20)

    def nll(p):
        move, emit = jax.nn.log_softmax(p["move"], axis=1), jax.nn.log_softmax(p["emit"], axis=1)

        def step(alpha, word):
            return jax.nn.logsumexp(alpha[:, None] + move, axis=0) + emit[:, word], None

        start = jax.nn.log_softmax(p["start"]) + emit[:, words[0]]
        return -jax.nn.logsumexp(lax.scan(step, start, jnp.asarray(words[1:]))[0])

    return nll, ({"start": draw.normal(3), "move": draw.normal(3, 3), "emit": draw.normal(3, 5)},)


@case(argnums=(0, 1))
def conditional_random_field(draw):
    tags, scores = draw.rng.integers(0, 4, 9), draw.normal(9, 4)

    def nll(scores, moves):
        path = scores[jnp.arange(9), tags].sum() + moves[tags[:-1], tags[1:]].sum()
        alpha = scores[0]
        for row in scores[1:]:
            alpha = jax.nn.logsumexp(alpha[:, None] + moves, axis=0) + row
        return jax.nn.logsumexp(alpha) - path

    return nll, (scores, draw.normal(4, 4))


@case
def eight_schools(draw):
    y, sd = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def potential(p):
        norm = jax.scipy.stats.norm
        tau = jnp.exp(p["log_tau"])
        log_p = norm.logpdf(p["mu"], 0, 5) + jnp.log(tau) - jnp.log1p((tau / 5) ** 2)
        log_p += norm.logpdf(p["z"]).sum() + norm.logpdf(y, p["mu"] + tau * p["z"], sd).sum()
        return -log_p

    return potential, ({"mu": draw.array(4.0), "log_tau": draw.array(1.0), "z": draw.normal(8)},)


@case(argnums=(0, 1))
def poisson_regression_with_exposure(draw):
    counts, x = draw.rng.poisson(3, 16), draw.normal(16, 3)

    def nll(w, exposure):
        rate = jnp.exp(x @ w) * exposure
        return jnp.mean(rate - counts * jnp.log(rate) + jax.scipy.special.gammaln(counts + 1.0))

    return nll, (draw.normal(3, scale=0.5), draw.uniform(0.5, 2, 16))


@case
def cox_partial_likelihood(draw):
    times, event = draw.rng.exponential(1, 14), jnp.asarray(draw.rng.integers(0, 2, 14))
    x = draw.normal(14, 3)

    def nll(w):
        order = jnp.argsort(-jnp.asarray(times))
        risk = (x @ w)[order]
        return -jnp.sum(event[order] * (risk - lax.cumlogsumexp(risk)))

    return nll, (draw.normal(3),)


@case
def weibull_survival_with_censoring(draw):
    times, seen, x = draw.uniform(0.2, 3, 12), np.array([1, 0, 1] * 4, bool), draw.normal(12, 2)

    def nll(p):
        shape, scale = jnp.exp(p["log_shape"]), jnp.exp(x @ p["w"])
        hazard = (times / scale) ** shape
        log_density = jnp.log(shape / scale) + (shape - 1) * jnp.log(times / scale) - hazard
        return -jnp.where(seen, log_density, -hazard).sum()

    return nll, ({"log_shape": draw.array(0.3), "w": draw.normal(2, scale=0.4)},)


@case(argnums=(0, 1))
def von_mises_likelihood(draw):
    angles = draw.uniform(-2, 2, 10)

    def nll(mean, log_kappa):
        kappa = jnp.exp(log_kappa)
        return jnp.sum(jnp.log(jax.scipy.special.i0e(kappa)) + kappa - kappa * jnp.cos(angles - mean))

    return nll, (draw.array(0.4), draw.array(0.7))


@case
def mixture_density_network(draw):
    x, y = draw.normal(12, 1), draw.normal(12)

    def nll(params):
        logits, means, log_scales = jnp.split(forward(params, x, jnp.tanh), 3, axis=1)
        parts = jax.nn.log_softmax(logits) + jax.scipy.stats.norm.logpdf(
            y[:, None], means, jnp.exp(log_scales)
        )
        return -jax.nn.logsumexp(parts, axis=1).mean()

    return nll, (draw.layers(1, 6, 9),)


@case
def gaussian_mixture(draw):
    y = draw.normal(25, 2)

    def nll(p):
        precision = jnp.exp(-p["log_scale"])
        z = (y[:, None, :] - p["means"]) * precision
        parts = jax.nn.log_softmax(p["logits"]) + jnp.sum(-0.5 * z**2 + jnp.log(precision), axis=-1)
        return -jnp.sum(jax.nn.logsumexp(parts, axis=1))

    return nll, ({"logits": draw.normal(3), "means": draw.normal(3, 2), "log_scale": draw.normal(3, 2)},)


@case(argnums=(0, 1))
def ordinal_regression(draw):
    x, levels = draw.normal(15, 2), draw.rng.integers(0, 4, 15)

    def nll(w, gaps):
        cuts = jnp.cumsum(jnp.concatenate([gaps[:1], jax.nn.softplus(gaps[1:])]))
        cuts = jnp.concatenate([jnp.array([-jnp.inf]), cuts, jnp.array([jnp.inf])]).astype(gaps.dtype)
        p = jax.nn.sigmoid(cuts[levels + 1] - x @ w) - jax.nn.sigmoid(cuts[levels] - x @ w)
        return -jnp.log(p).mean()

    return nll, (draw.normal(2), draw.array([-1.0, 0.5, 0.8]))


@case(argnums=(0, 1))
def zero_inflated_poisson(draw):
    counts = np.array([0, 0, 3, 1, 0, 5, 2, 0])

    def nll(logit, log_rate):
        rate, log_zero = jnp.exp(log_rate), jax.nn.log_sigmoid(logit)
        log_poisson = counts * log_rate - rate - jax.scipy.special.gammaln(counts + 1)
        log_poisson += jax.nn.log_sigmoid(-logit)
        return -jnp.where(counts == 0, jnp.logaddexp(log_zero, log_poisson), log_poisson).sum()

    return nll, (draw.array(-0.4), draw.array(0.6))


@case(argnums=(0, 1))
def tobit_regression(draw):
    x, y = draw.normal(16, 2), draw.normal(16)

    def nll(w, log_scale):
        norm, scale, mean = jax.scipy.stats.norm, jnp.exp(log_scale), x @ w
        censored = y <= 0
        return -jnp.where(censored, norm.logcdf(-mean / scale), norm.logpdf(y, mean, scale)).sum()

    return nll, (draw.normal(2), draw.array(0.1))


@case
def garch_volatility(draw):
    returns = draw.normal(40, scale=0.02)

    def nll(raw):
        omega, alpha, beta = jnp.exp(raw[0]), 0.3 * jax.nn.sigmoid(raw[1]), 0.7 * jax.nn.sigmoid(raw[2])

        def step(variance, r):
            variance = omega + alpha * r**2 + beta * variance
            return variance, variance

        _, variance = lax.scan(step, jnp.var(returns), returns[:-1])
        return 0.5 * jnp.sum(jnp.log(variance) + returns[1:] ** 2 / variance)

    return nll, (draw.array([-9.0, 0.2, 1.0]),)


@case(argnums=(0, 1))
def kl_between_full_gaussians(draw):
    target = jnp.eye(4, dtype=draw.dtype) + 0.1

    def kl(mean, factor):
        covariance = factor @ factor.T + 0.1 * jnp.eye(4)
        quadratic = mean @ jnp.linalg.solve(target, mean)
        gap = jnp.linalg.slogdet(target)[1] - jnp.linalg.slogdet(covariance)[1]
        return 0.5 * (jnp.trace(jnp.linalg.solve(target, covariance)) + quadratic - 4 + gap)

    return kl, (draw.normal(4), draw.normal(4, 4))


@case
def plackett_luce_ranking(draw):
    orders = np.array([draw.rng.permutation(5) for _ in range(6)])

    def nll(strength):
        s = strength[orders]
        return -jnp.sum(s - lax.cumlogsumexp(s, axis=1, reverse=True))

    return nll, (draw.normal(5),)


@case
def hawkes_process(draw):
    times = jnp.sort(draw.uniform(0, 10, 18))

    def nll(raw):
        mu, alpha, beta = jax.nn.softplus(raw)

        def step(carry, gap):
            carry = jnp.exp(-beta * gap) * (1 + carry)
            return carry, jnp.log(mu + alpha * carry)

        _, logs = lax.scan(step, jnp.zeros((), raw.dtype), jnp.diff(times))
        compensator = mu * 10 + alpha / beta * jnp.sum(1 - jnp.exp(-beta * (10 - times)))
        return compensator - logs.sum() - jnp.log(mu)

    return nll, (draw.array([0.2, -0.5, 0.9]),)


@case(argnums=(0, 1))
def probabilistic_pca(draw):
    x = draw.normal(20, 5)

    def nll(w, log_noise):
        model = w @ w.T + jnp.exp(log_noise) * jnp.eye(5)
        return 0.5 * (jnp.linalg.slogdet(model)[1] + jnp.trace(jnp.linalg.inv(model) @ jnp.cov(x.T)))

    return nll, (draw.normal(5, 2), draw.array(-0.3))


@case
def beta_binomial_and_entropy(draw):
    n, k = np.array([10, 12, 8]), np.array([3, 9, 0])

    def nll(ab):
        a, b = jnp.exp(ab)
        betaln = jax.scipy.special.betaln
        entropy = (
            betaln(a, b) - (a - 1) * jax.scipy.special.digamma(a) - (b - 1) * jax.scipy.special.digamma(b)
        )
        return jnp.sum(betaln(a, b) - betaln(k + a, n - k + b)) - 0.1 * entropy

    return nll, (draw.array([0.3, 0.8]),)


@case
def matrix_factorisation_with_missing_data(draw):
    ratings = np.where(draw.rng.uniform(size=(6, 5)) < 0.3, np.nan, draw.rng.normal(size=(6, 5)))

    def loss(p, ratings):
        seen = ~jnp.isnan(ratings)
        error = jnp.where(seen, ratings, 0) - jnp.where(seen, p["users"] @ p["items"].T, 0)
        return jnp.sum(error**2) / seen.sum() + 0.01 * sum(jnp.sum(v**2) for v in p.values())

    return loss, ({"users": draw.normal(6, 2), "items": draw.normal(5, 2)}, draw.array(ratings))
