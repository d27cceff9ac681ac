import * as echarts from 'echarts'

export interface Series {
  readonly name: string
  /** Series of one group have one colour. */
  readonly group?: string
  readonly dashed?: boolean
  readonly points: readonly { readonly x: string; readonly y: number }[]
}

const COLOURS = ['#5470c6', '#d9730d', '#3a8f5c', '#b03a8c', '#6b7280', '#c9a400']
/** Legend entries that fit in one row. */
const PER_ROW = 4
const ROW = 22

/** A line chart over named places on the x axis, as SVG. */
export function lineChart(title: string, xName: string, yName: string, xs: readonly string[], series: readonly Series[]): string {
  const rows = Math.ceil(series.length / PER_ROW)
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: 760, height: 380 + rows * ROW })
  const groups = [...new Set(series.map((s) => s.group ?? s.name))]
  chart.setOption({
    animation: false,
    backgroundColor: '#fff',
    title: { text: title, left: 'center', textStyle: { fontSize: 14 } },
    // Without a browser widths of texts are guesses: every row of the legend is laid out on its own, with room to spare.
    legend: Array.from({ length: rows }, (_, r) => ({
      bottom: (rows - 1 - r) * ROW,
      itemGap: 28,
      data: series.slice(r * PER_ROW, (r + 1) * PER_ROW).map((s) => s.name),
    })),
    grid: { left: 60, right: 20, top: 40, bottom: 55 + rows * ROW },
    xAxis: { type: 'category', data: [...xs], name: xName, nameLocation: 'middle', nameGap: 26 },
    yAxis: { type: 'value', name: yName, nameLocation: 'middle', nameGap: 40, min: 0 },
    series: series.map((s) => ({
      type: 'line',
      name: s.name,
      color: COLOURS[groups.indexOf(s.group ?? s.name) % COLOURS.length],
      lineStyle: { type: s.dashed ? 'dashed' : 'solid' },
      data: xs.map((x) => s.points.find((p) => p.x === x)?.y ?? null),
    })),
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}
